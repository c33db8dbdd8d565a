import type { Clock } from '@capstan/actor'
import type { HistoryRecord, Json, Series } from '../harness/types.js'
import type { Answer, Failure } from './ports.js'

/** Names of the counters of which the judge makes the share of failed requests. */
export const REQUESTS = {
  all: 'requests',
  failed: 'requests failed',
  failedTwice: 'requests failed after retry',
} as const
/** Names of the series on the report's time line. */
export const SERIES = {
  writes: 'writes acknowledged',
  failed: 'requests failed',
  median: 'latency median',
  slow: 'latency 99 %',
  ready: 'pods ready',
  wanted: 'pods wanted',
  answers: 'service answers',
} as const

const BIN_MS = 1000
/** Latencies kept of one bin; more are counted only. */
const BIN_LATENCIES_MAX = 2000

interface Bin {
  writes: number
  failed: number
  latencies: number[]
}

/**
 * What the clients of one workload did and were told, within a bound: at `recordsMax` the workload ends (`isFull`), since what
 * is not recorded cannot be judged.
 */
export class Recording {
  readonly history: HistoryRecord[] = []
  readonly counters: Record<string, number> = {
    [REQUESTS.all]: 0,
    [REQUESTS.failed]: 0,
    [REQUESTS.failedTwice]: 0,
  }
  /** By whole seconds of the run; closed bins are figures only. */
  private readonly closed: { second: number; writes: number; failed: number; median: number; slow: number }[] = []
  private bin: Bin = { writes: 0, failed: 0, latencies: [] }
  private second = -1

  constructor(
    readonly clock: Clock,
    private readonly recordsMax: number,
  ) {}

  get isFull(): boolean {
    return this.history.length >= this.recordsMax
  }

  count(name: string, by = 1): void {
    this.counters[name] = (this.counters[name] ?? 0) + by
  }

  /**
   * One request. `told` makes of the answer what the record says (`undefined`: it is left out of the history, though
   * counted). A refusal that is an answer (`answered`) is for `refused`; without it, it did not happen.
   */
  async request<T>(
    about: {
      process: string
      operation: string
      key: string
      argument?: Json
      endpoint: string
      isWrite: boolean
    },
    ask: () => Promise<Answer<T>>,
    told: (value: T) => { value?: Json; revision?: number },
    refused?: (failure: Failure) => { value?: Json } | undefined,
  ): Promise<Answer<T>> {
    const { isWrite, ...rest } = about
    const invokedMs = this.clock.monotonicMs()
    const record: HistoryRecord = { ...rest, invokedMs, outcome: 'may-have-happened' }
    // Recorded before it is known: what is open at the end may have happened.
    this.history.push(record)
    this.count(REQUESTS.all)
    const answer = await ask()
    const returnedMs = this.clock.monotonicMs()
    this.note(returnedMs, returnedMs - invokedMs, { isWrite, isDone: answer.ok || answer.answered, isOk: answer.ok })
    if (answer.ok) Object.assign(record, { outcome: 'ok', returnedMs, ...told(answer.value) })
    else {
      record.error = `${answer.code}: ${answer.text}`.slice(0, 300)
      const verdict = answer.answered ? refused?.(answer) : undefined
      if (verdict) Object.assign(record, { outcome: 'ok', returnedMs, ...verdict })
      else if (answer.outcome === 'not-applied') Object.assign(record, { outcome: 'did-not-happen', returnedMs })
      if (!answer.answered) this.count(REQUESTS.failed)
    }
    return answer
  }

  series(): Series[] {
    this.close(this.clock.monotonicMs())
    const make = (name: string, unit: string, of: keyof (typeof this.closed)[0]): Series => ({
      name,
      unit,
      points: this.closed.filter((bin) => !Number.isNaN(bin[of])).map((bin) => [bin.second * BIN_MS, bin[of]]),
    })
    return [
      make(SERIES.writes, '1/s', 'writes'),
      make(SERIES.failed, '1/s', 'failed'),
      make(SERIES.median, 'ms', 'median'),
      make(SERIES.slow, 'ms', 'slow'),
    ]
  }

  private note(atMs: number, tookMs: number, what: { isWrite: boolean; isDone: boolean; isOk: boolean }): void {
    this.close(atMs)
    const { bin } = this
    if (!what.isDone) bin.failed++
    else if (bin.latencies.length < BIN_LATENCIES_MAX) bin.latencies.push(tookMs)
    if (what.isWrite && what.isOk) bin.writes++
  }

  /** Closes the bins before the one of this instant; empty ones count, but have no latency. */
  private close(atMs: number): void {
    const second = Math.floor(atMs / BIN_MS)
    if (this.second < 0) this.second = second
    for (; this.second < second; this.second++) {
      const sorted = this.bin.latencies.sort((a, b) => a - b)
      const at = (share: number) => round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))])
      const { writes, failed } = this.bin
      this.closed.push({ second: this.second, writes, failed, median: at(0.5), slow: at(0.99) })
      this.bin = { writes: 0, failed: 0, latencies: [] }
    }
  }
}

const round = (ms: number | undefined) => (ms === undefined ? Number.NaN : Math.round(ms * 100) / 100)
