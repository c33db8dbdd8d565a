import { createHash, randomBytes } from 'node:crypto'
import type { Random } from '@capstan/actor'

/** Seeded from the operating system unless a seed is given. SHA-256 in counter mode: good enough to draw uids from. */
export class RealRandom implements Random {
  private counter = 0
  private block = Buffer.alloc(0)
  private at = 0

  constructor(private readonly seed: Uint8Array = randomBytes(32)) {}

  next(): number {
    // 53 random bits, as many as a double holds.
    const bytes = this.take(7)
    return (bytes.readUIntBE(0, 6) * 32 + ((bytes[6] as number) & 31)) / 2 ** 53
  }

  int(bound: number): number {
    return Math.floor(this.next() * bound)
  }

  bytes(count: number): Uint8Array {
    return new Uint8Array(this.take(count))
  }

  fork(name: string): Random {
    return new RealRandom(createHash('sha256').update(this.seed).update('fork').update(name).digest())
  }

  private take(count: number): Buffer {
    while (this.block.length - this.at < count) {
      const counter = Buffer.alloc(8)
      counter.writeBigUInt64BE(BigInt(this.counter++))
      const more = createHash('sha256').update(this.seed).update(counter).digest()
      this.block = Buffer.concat([this.block.subarray(this.at), more])
      this.at = 0
    }
    this.at += count
    return this.block.subarray(this.at - count, this.at)
  }
}
