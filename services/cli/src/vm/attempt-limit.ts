const WINDOW_MS = 60_000
/** Of one address: a typo or two, not a search. */
const OF_ONE_MAX = 10
/** Of all: with a secret of 82 bits it only bounds the work. */
const OF_ALL_MAX = 300
const ADDRESSES_MAX = 4096

/** Counts what was refused in a minute, for each address and in all. Pure: time comes in. */
export class AttemptLimit {
  private startedMs = 0
  private all = 0
  private readonly of = new Map<string, number>()

  /** Too many: nobody is listened to (this address, or everybody) until the minute is over. */
  isExhausted(address: string, nowMs: number): boolean {
    this.turn(nowMs)
    return this.all >= OF_ALL_MAX || (this.of.get(address) ?? 0) >= OF_ONE_MAX
  }

  count(address: string, nowMs: number): void {
    this.turn(nowMs)
    this.all++
    if (this.of.size < ADDRESSES_MAX || this.of.has(address)) this.of.set(address, (this.of.get(address) ?? 0) + 1)
  }

  private turn(nowMs: number): void {
    if (nowMs - this.startedMs < WINDOW_MS) return
    this.startedMs = nowMs
    this.all = 0
    this.of.clear()
  }
}
