import type { StoreStatusReply } from '@capstan/protocol'
import type { Done } from '../types.js'
import { awaitThat } from './host-edge.js'

/** What `services/store` takes for the next program; see its README. */
const NEXT_PROGRAM = { CAPSTAN_TEST_CLUSTER_VERSION_MAX: '2' }
const NEXT_VERSION = 2
const BACK_MS = 45_000
/** The leader raises it once all members have said for some seconds that they support it. */
const VERSION_RAISED_MS = 20_000

/** How a target's machines are stopped and started. */
export interface UpgradeSite {
  masters(): readonly string[]
  /** An ordinary end of the whole machine. */
  stop(machine: string): Promise<void>
  /** Starts it again, with `Upgrades.environmentOf`; says so in a few words. */
  start(machine: string): Promise<string>
  /** By name, of the members that answer, as `asked` hears them. */
  statuses(asked: string): Promise<ReadonlyMap<string, StoreStatusReply>>
}

/** Machines that have the next program. They keep it: what is undone is that the cluster has two. */
export class Upgrades {
  private readonly upgraded = new Set<string>()

  constructor(private readonly site: UpgradeSite) {}

  /** What a machine is started with from now on. */
  environmentOf(machine: string): Record<string, string> {
    return this.upgraded.has(machine) ? NEXT_PROGRAM : {}
  }

  /** Undone when all masters have the next program and the cluster's version has risen. */
  async upgrade(machine: string): Promise<Done> {
    const { site } = this
    await site.stop(machine)
    this.upgraded.add(machine)
    const started = await site.start(machine)
    const isMaster = site.masters().includes(machine)
    if (isMaster)
      await awaitThat(
        `${machine} says that it supports version ${NEXT_VERSION}`,
        async () => (await site.statuses(machine)).get(machine)?.supportedVersions?.max === NEXT_VERSION,
        BACK_MS,
      )
    const proof = isMaster ? `${started}, supports version ${NEXT_VERSION}` : started
    return { proof, undo: async () => (isMaster ? this.versionRaised(machine) : `${machine} keeps the next program`) }
  }

  private async versionRaised(machine: string): Promise<string> {
    const masters = this.site.masters()
    const others = masters.filter((name) => !this.upgraded.has(name))
    if (others.length > 0) return `${machine} keeps the next program; ${others.join(', ')} have the former one`
    await awaitThat(
      `all masters are at version ${NEXT_VERSION}`,
      async () => {
        const statuses = await this.site.statuses(machine)
        return masters.every((name) => statuses.get(name)?.clusterVersion === NEXT_VERSION)
      },
      VERSION_RAISED_MS,
    )
    return `all masters have the next program, and the cluster is at version ${NEXT_VERSION}`
  }
}
