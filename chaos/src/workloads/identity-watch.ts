import type { LiveContainer } from '../harness/types.js'

/** What is known of the lives of identity pods. */
export interface IdentityEvidence {
  /** `process table`: containers seen from outside, at so many looks; `kubelet status`: what kubelets say, whole seconds. */
  by: 'process table' | 'kubelet status'
  looks: number
  /** The longest time between two looks, ms. */
  longestBlindMs: number
  /** Lives of pods of identity that were seen. */
  lives: number
  doubles: string[]
}

interface Told {
  name: string
  node: string
  startedMs?: number
  endedMs?: number
}

const DOUBLES_MAX = 20

/** Promise C3: looks for two live containers under one name. */
export class IdentityWatch {
  readonly doubles: string[] = []
  private looks = 0
  private lastMs: number | undefined
  private longestBlindMs = 0
  private readonly byUid = new Map<string, Told>()

  /** The process table, as it was asked for at `askedMs`. Only names that are known as identities count. */
  saw(askedMs: number, containers: readonly LiveContainer[]): void {
    this.looks++
    if (this.lastMs !== undefined) this.longestBlindMs = Math.max(this.longestBlindMs, askedMs - this.lastMs)
    this.lastMs = askedMs
    const byName = new Map<string, Map<string, LiveContainer>>()
    for (const container of containers) {
      const told = container.podUid === undefined ? undefined : this.byUid.get(container.podUid)
      if (!told || container.podUid === undefined) continue
      const lives = byName.get(told.name) ?? new Map<string, LiveContainer>()
      byName.set(told.name, lives.set(container.podUid, container))
    }
    for (const [name, lives] of byName)
      if (lives.size > 1)
        this.double(`${seconds(askedMs)} s: ${name} runs ${[...lives.values()].map(describe).join(' and ')}`)
  }

  /** What a kubelet says of a pod. */
  told(name: string, uid: string, node: string, status: Record<string, unknown> | undefined): void {
    const told: Told = this.byUid.get(uid) ?? { name, node }
    this.byUid.set(uid, { ...told, node: node || told.node, ...livesOf(status) })
  }

  evidence(byProcesses: boolean): IdentityEvidence {
    if (!byProcesses) this.compareTold()
    return {
      by: byProcesses ? 'process table' : 'kubelet status',
      looks: this.looks,
      longestBlindMs: Math.round(this.longestBlindMs),
      lives: this.byUid.size,
      doubles: this.doubles,
    }
  }

  /** Whole seconds: an overlap of less than one may be none. */
  private compareTold(): void {
    const all = [...this.byUid.entries()]
    for (const [uid, one] of all)
      for (const [other, next] of all) {
        if (uid === other || one.name !== next.name || one.startedMs === undefined || next.startedMs === undefined)
          continue
        if (one.startedMs <= next.startedMs && one.endedMs !== undefined && next.startedMs < one.endedMs)
          this.double(
            `${one.name}: ${uid} on ${one.node} ended at ${iso(one.endedMs)}, ${other} on ${next.node} had begun at ${iso(next.startedMs)}`,
          )
      }
  }

  private double(text: string): void {
    if (this.doubles.length < DOUBLES_MAX) this.doubles.push(text)
  }
}

const seconds = (ms: number) => (ms / 1000).toFixed(3)
const iso = (ms: number) => new Date(ms).toISOString()
const describe = ({ podUid, node, pid, container, command }: LiveContainer) =>
  `as ${podUid} on ${node} (process ${pid}${command === undefined ? '' : `: ${command}`}${container === undefined ? '' : `, container ${container.slice(0, 12)}`})`

interface ContainerStatus {
  state?: { running?: { startedAt?: string }; terminated?: { startedAt?: string; finishedAt?: string } }
}

function livesOf(status: Record<string, unknown> | undefined): Pick<Told, 'startedMs' | 'endedMs'> {
  const [first] = (status?.['containerStatuses'] ?? []) as ContainerStatus[]
  const { running, terminated } = first?.state ?? {}
  const startedAt = running?.startedAt ?? terminated?.startedAt
  return {
    ...(startedAt === undefined ? {} : { startedMs: Date.parse(startedAt) }),
    ...(terminated?.finishedAt === undefined ? {} : { endedMs: Date.parse(terminated.finishedAt) }),
  }
}
