/** Texts whose digests are remembered; others are read each time. */
const DIGESTS_MAX = 4096

/** A running 64-bit hash of everything that happened: two runs with the same one are the same history. */
export class Trace {
  private low = 0x811c9dc5
  private high = 0x9e3779b9
  events = 0
  /** The same few subjects, machines and causes come again and again. */
  private readonly digests = new Map<string, number>()

  add(kind: string, time: number, where: string, what: string, payload?: Uint8Array): void {
    this.events++
    this.number(time)
    this.text(kind)
    this.text(where)
    this.text(what)
    if (payload) this.bytes(payload)
  }

  /** 16 hexadecimal digits. */
  get hash(): string {
    return (this.high >>> 0).toString(16).padStart(8, '0') + (this.low >>> 0).toString(16).padStart(8, '0')
  }

  private word(value: number): void {
    this.low = Math.imul(this.low ^ value, 0x01000193)
    this.high = Math.imul(this.high ^ (this.low >>> 15) ^ value, 0x85ebca6b)
  }

  private number(value: number): void {
    // Microseconds: a time's fraction matters too.
    const micros = Math.round(value * 1000)
    this.word(micros >>> 0)
    this.word(Math.floor(micros / 2 ** 32))
  }

  private text(text: string): void {
    let digest = this.digests.get(text)
    if (digest === undefined) {
      digest = 0x811c9dc5
      for (let at = 0; at < text.length; at++) digest = Math.imul(digest ^ text.charCodeAt(at), 0x01000193)
      if (this.digests.size < DIGESTS_MAX) this.digests.set(text, digest)
    }
    this.word(digest)
    this.word(text.length)
  }

  private bytes(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at++) this.low = Math.imul(this.low ^ (bytes[at] as number), 0x01000193)
    this.word(bytes.length)
  }
}
