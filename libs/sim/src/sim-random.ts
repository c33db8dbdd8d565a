import type { Random } from '@capstan/actor'

/** Chance of one stream: sfc32, seeded by a hash of the seed and the stream's name. The same on every engine. */
export class SimRandom implements Random {
  private a: number
  private b: number
  private c: number
  private d = 1

  constructor(private readonly seed: string) {
    const mix = hash128(seed)
    ;[this.a, this.b, this.c] = [mix[0], mix[1], mix[2]]
    for (let i = 0; i < 12; i++) this.next32()
  }

  next(): number {
    return this.next32() / 2 ** 32
  }

  int(bound: number): number {
    return Math.floor(this.next() * bound)
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.next32() & 0xff)
  }

  fork(name: string): SimRandom {
    return new SimRandom(`${this.seed}/${name}`)
  }

  /** One of these, evenly. */
  pick<T>(list: readonly T[]): T {
    return list[this.int(list.length)] as T
  }

  chance(probability: number): boolean {
    return this.next() < probability
  }

  between(low: number, high: number): number {
    return low + this.next() * (high - low)
  }

  private next32(): number {
    const t = (((this.a + this.b) | 0) + this.d) | 0
    this.d = (this.d + 1) | 0
    this.a = this.b ^ (this.b >>> 9)
    this.b = (this.c + (this.c << 3)) | 0
    this.c = (this.c << 21) | (this.c >>> 11)
    this.c = (this.c + t) | 0
    return t >>> 0
  }
}

/** Four 32-bit words out of a text (murmur-like mixing). */
function hash128(text: string): [number, number, number, number] {
  const words: [number, number, number, number] = [0x9e3779b9, 0x243f6a88, 0xb7e15162, 0xdeadbeef]
  for (let at = 0; at < text.length; at++) {
    const lane = at & 3
    words[lane] = Math.imul((words[lane] as number) ^ text.charCodeAt(at), 0x85ebca6b)
    words[lane] = ((words[lane] as number) << 13) | ((words[lane] as number) >>> 19)
    words[(lane + 1) & 3] = ((words[(lane + 1) & 3] as number) + (words[lane] as number)) | 0
  }
  for (let round = 0; round < 8; round++)
    for (let lane = 0; lane < 4; lane++) {
      words[lane] = Math.imul((words[lane] as number) ^ ((words[(lane + 1) & 3] as number) >>> 16), 0xc2b2ae35)
    }
  return words
}
