import type { NodeInfo } from './snapshot.js'
import type { PodView } from './views.js'

/** What all plugins of one scheduling cycle see. */
export interface Cycle {
  readonly pod: PodView
  /** All nodes, sorted by name. */
  readonly nodes: readonly NodeInfo[]
}

/**
 * A step of placing a pod (Kubernetes scheduling framework; extension points filter, score, reserve, permit and bind).
 * Pure: what it says depends on the cycle alone.
 */
export interface Plugin {
  readonly name: string
  /** Undefined: the node will do. Else why not, as the event states it. */
  filter?(cycle: Cycle, node: NodeInfo): string | undefined
  score?: {
    weight: number
    /** One figure per node, any scale. */
    score(cycle: Cycle, node: NodeInfo): number
    /** Brings the figures to 0…100. Default: as they are, cut to that. */
    normalize?(scores: number[]): number[]
  }
}

export type Placement =
  | { placed: true; nodeName: string; scores: Record<string, number> }
  /** `reasons` counts nodes by why they would not do. */
  | { placed: false; message: string; reasons: Record<string, number> }

/** The best node for a pod; among equals the one that `choose(count)` picks. */
export function placePod(plugins: readonly Plugin[], cycle: Cycle, choose: (count: number) => number): Placement {
  const reasons: Record<string, number> = {}
  const feasible: NodeInfo[] = []
  for (const node of cycle.nodes) {
    const why = firstRefusal(plugins, cycle, node)
    if (why === undefined) feasible.push(node)
    else for (const reason of why) reasons[reason] = (reasons[reason] ?? 0) + 1
  }
  if (feasible.length === 0) return { placed: false, message: failureMessage(cycle.nodes.length, reasons), reasons }
  const totals = feasible.map(() => 0)
  const feasibleCycle: Cycle = { pod: cycle.pod, nodes: cycle.nodes }
  for (const plugin of plugins) {
    if (!plugin.score) continue
    const { score, normalize, weight } = plugin.score
    const raw = feasible.map((node) => score(feasibleCycle, node))
    const scaled = normalize ? normalize(raw) : raw
    scaled.forEach((value, i) => {
      totals[i] = (totals[i] as number) + weight * Math.min(100, Math.max(0, value))
    })
  }
  const best = Math.max(...totals)
  const winners = feasible.filter((_, i) => totals[i] === best)
  const winner = winners[winners.length === 1 ? 0 : choose(winners.length)] as NodeInfo
  return {
    placed: true,
    nodeName: winner.name,
    scores: Object.fromEntries(feasible.map((node, i) => [node.name, totals[i] as number])),
  }
}

function firstRefusal(plugins: readonly Plugin[], cycle: Cycle, node: NodeInfo): string[] | undefined {
  for (const plugin of plugins) {
    const why = plugin.filter?.(cycle, node)
    // One plugin may have several reasons: several resources that do not suffice.
    if (why !== undefined) return why.split('\n')
  }
  return undefined
}

/** `0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.` */
function failureMessage(nodes: number, reasons: Record<string, number>): string {
  if (nodes === 0) return 'no nodes available to schedule pods'
  const parts = Object.entries(reasons)
    .map(([reason, count]) => `${count} ${reason}`)
    .sort()
  return `0/${nodes} nodes are available: ${parts.join(', ')}.`
}

/** Largest becomes 100, 0 stays 0; `reverse`: the smallest is best. */
export function proportional(scores: number[], reverse = false): number[] {
  const max = Math.max(0, ...scores)
  if (max === 0) return scores.map(() => (reverse ? 100 : 0))
  return scores.map((score) => {
    const share = Math.floor((score * 100) / max)
    return reverse ? 100 - share : share
  })
}
