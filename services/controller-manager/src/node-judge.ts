/**
 * Who is silent, and is it they or the judge? Pure: silences come in, verdicts go out. The silences themselves count only
 * time in which the judge could have heard (see `BeatTracker`).
 */
import { byText } from '@capstan/client'

/**
 * - `heard`: beats or renews its Lease, or could not have been heard for long enough.
 * - `lost`: silent both ways: mark and evict.
 * - `suspect`: silent together with many others: mark, alarm, don't evict.
 */
export type Verdict = 'heard' | 'lost' | 'suspect'

export interface NodeSilence {
  name: string
  beatMs: number
  leaseMs: number
  /** A former judge found it lost, and it has not reported since. */
  alreadyLost: boolean
}

export interface JudgeOptions {
  beatGraceMs: number
  leaseGraceMs: number
  atOnceMs: number
  disruptionHoldMs: number
}

/** Below so many nodes "many at once" says nothing. */
const DISRUPTION_NODES_MIN = 3

export class NodeJudge {
  /** Silent nodes and since when they are judged so. */
  private readonly silentSince = new Map<string, number>()
  /** Silent ones that are no part of a disruption any more. */
  private readonly settled = new Set<string>()
  private readonly group = new Set<string>()
  private groupSinceMs: number | undefined

  constructor(private readonly options: JudgeOptions) {}

  /** Many fell silent at once, and it is not settled yet. */
  get disrupted(): boolean {
    return this.group.size > 0
  }

  get suspects(): string[] {
    return [...this.group].sort(byText)
  }

  /** Since when the node is lost; undefined while it is not. */
  lostSinceMs(name: string): number | undefined {
    return this.group.has(name) ? undefined : this.silentSince.get(name)
  }

  verdict(name: string): Verdict {
    if (!this.silentSince.has(name)) return 'heard'
    return this.group.has(name) ? 'suspect' : 'lost'
  }

  /** Judges all nodes that there are; returns the names whose verdict changed, sorted. */
  judge(nodes: readonly NodeSilence[], nowMs: number): string[] {
    const names = new Set(nodes.map((node) => node.name))
    const before = new Map([...this.silentSince.keys(), ...names].map((name) => [name, this.verdict(name)]))
    for (const name of Array.from(this.silentSince.keys())) if (!names.has(name)) this.heard(name)
    for (const node of nodes) {
      const silent = node.beatMs >= this.options.beatGraceMs && node.leaseMs >= this.options.leaseGraceMs
      if (!silent) this.heard(node.name)
      else if (!this.silentSince.has(node.name)) {
        this.silentSince.set(node.name, nowMs)
        if (node.alreadyLost) this.settled.add(node.name)
      }
    }
    this.findDisruption(nodes.length, nowMs)
    return [...before]
      .filter(([name, verdict]) => this.verdict(name) !== verdict)
      .map(([name]) => name)
      .sort(byText)
  }

  private heard(name: string): void {
    this.silentSince.delete(name)
    this.settled.delete(name)
    this.group.delete(name)
  }

  private findDisruption(total: number, nowMs: number): void {
    const { atOnceMs, disruptionHoldMs } = this.options
    const together = [...this.silentSince]
      .filter(([name, since]) => !this.settled.has(name) && (this.group.has(name) || nowMs - since < atOnceMs))
      .map(([name]) => name)
    const judged = total - (this.silentSince.size - together.length)
    const many = total >= DISRUPTION_NODES_MIN && together.length >= Math.max(2, Math.ceil(judged / 2))
    if (!many) {
      this.group.clear()
      this.groupSinceMs = undefined
      return
    }
    this.groupSinceMs ??= nowMs
    for (const name of together) this.group.add(name)
    // The judge hears others all the while, so it is those nodes that are sick after all.
    const hearsOthers = this.silentSince.size < total
    if (hearsOthers && nowMs - this.groupSinceMs >= disruptionHoldMs) {
      for (const name of this.group) {
        this.settled.add(name)
        this.silentSince.set(name, nowMs)
      }
      this.group.clear()
      this.groupSinceMs = undefined
    }
  }
}
