import type { World } from '@capstan/actor'
import type { ApiClient, BeatTracker, InformerFactory } from '@capstan/client'
import type { Fence } from '@capstan/protocol'
import type { IdentityFences } from './identity-fences.js'
import type { ControllerManagerOptions } from './options.js'

/** One running control loop of a term of office. */
export interface Part {
  readonly name: string
  /** Resolves when nothing of it runs any more. */
  stop(): Promise<void>
}

/** What each control loop is started with. */
export interface PartContext {
  readonly world: World
  /** Not fenced: `startController` adds the fence. */
  readonly client: ApiClient
  readonly informers: InformerFactory
  readonly fence: Fence
  /** A write was FENCED: this term of office is over. */
  readonly onFenced: () => void
  readonly options: ControllerManagerOptions
  /** Beats of the kubelets. */
  readonly kubelets: BeatTracker
  /** Whether the identities of a node's pods may be given to others. */
  readonly fences: IdentityFences
  readonly counters: PartCounters
}

/** What happened since the start of the process, over all terms. */
export interface PartCounters {
  /** Nodes marked as silent. */
  nodesMarked: number
  /** Pods deleted because of a taint. */
  evictions: number
  /** Leases taken from silent nodes, so that the identities of their pods could be given to others. */
  nodesFenced: number
  /** Objects deleted because nobody owned them any more. */
  collected: number
}

export type StartPart = (context: PartContext) => Part
