import { grants, type Identity, identityToken, type StoreStatusReply, Subjects } from '@capstan/protocol'
import type { Simulation, SimWorld } from '@capstan/sim'
import { type StoreHandle, type StoreOptions, startStore } from '@capstan/store'
import type { Lead } from '../../checkers/elections.js'

const CLUSTER = 'c'

/** Members of one store as simulated machines, started again after each crash. */
export class StoreCluster {
  readonly subjects = new Subjects(CLUSTER)
  readonly handles = new Map<string, StoreHandle>()
  /** What no fault explains: a member that gives up, or does not start. */
  readonly problems: string[] = []
  /** When somebody began to lead, ms. */
  readonly leaderChanges: number[] = []
  /** Who began to lead in which term. */
  readonly leads: Lead[] = []
  private readonly awaited = new Map<string, (term: number) => void>()
  readonly counts: Record<string, number> = {}
  /** Members whose disk was damaged: such a one may refuse to start; its directory is emptied then, as an operator would. */
  readonly damaged = new Set<string>()
  /** Members that are being removed, or join again: they may stop, and start with an empty directory. */
  readonly leaving = new Set<string>()
  private worlds = 0
  private readonly boots = new Map<string, number>()

  constructor(
    private readonly simulation: Simulation,
    readonly members: readonly string[],
    private readonly options: Omit<StoreOptions, 'cluster' | 'clusterId' | 'member' | 'members' | 'emptyDirectory'>,
  ) {}

  boot(member: string, emptyDirectory: 'new' | 'existing' | 'join'): void {
    const { simulation } = this
    const boot = (this.boots.get(member) ?? 0) + 1
    this.boots.set(member, boot)
    this.handles.delete(member)
    const isPresent = () => simulation.machine(member).up && this.boots.get(member) === boot
    const world = this.world(member, { component: 'store', name: member })
    const gaveUp = (what: string, error: unknown) => {
      // What a crash interrupted leaves nothing to say; nor does one that is to go.
      if (!isPresent() || this.leaving.has(member)) return
      if (!this.damaged.has(member)) {
        this.problems.push(`member: ${member} ${what}: ${String(error)}`)
        return
      }
      this.count('damageRefused')
      simulation.machine(member).crash()
      simulation.machine(member).disk.wipe('/store')
      simulation.machine(member).restart()
      this.damaged.delete(member)
      this.boot(member, 'existing')
    }
    startStore(world, {
      ...this.options,
      cluster: CLUSTER,
      clusterId: 'simulated',
      member,
      members: this.members,
      emptyDirectory,
    }).then(
      (handle) => {
        if (!isPresent()) return
        this.handles.set(member, handle)
        void handle.ended.then((why) => {
          if (why !== undefined) gaveUp('gave up', why)
        })
      },
      (error: unknown) => gaveUp('does not start', error),
    )
  }

  /** The machine's processes are started anew. */
  restart(member: string): void {
    this.boot(member, this.leaving.has(member) ? 'join' : 'existing')
  }

  /** Its disk is emptied, and it waits to be named a member. */
  joinAnew(member: string): void {
    const machine = this.simulation.machine(member)
    machine.crash()
    machine.disk.wipe('/store')
    machine.restart()
    this.boot(member, 'join')
  }

  /** Notes elections, and doubts of members about their state, in what they log. */
  heed(line: string): void {
    // The member mends that itself; but nothing in the fault model explains it.
    if (line.includes(' error ') && line.includes('have different states')) this.problems.push(`equal state: ${line}`)
    if (!line.includes(' info leads ')) return
    const { store: member, term } = JSON.parse(line.slice(line.indexOf('{'))) as { store: string; term: number }
    this.leaderChanges.push(this.simulation.nowMs)
    this.leads.push({ member, term })
    this.awaited.get(member)?.(term)
  }

  /** Calls once, at the moment at which this member next begins to lead; `undefined`: no more. */
  onLead(member: string, run: ((term: number) => void) | undefined): void {
    this.awaited.delete(member)
    if (run)
      this.awaited.set(member, (term) => {
        this.awaited.delete(member)
        run(term)
      })
  }

  /** Of members that are up. */
  statuses(): Promise<StoreStatusReply[]> {
    return Promise.all([...this.handles].filter(([m]) => this.simulation.machine(m).up).map(([, h]) => h.status()))
  }

  /** The member that leads in the highest term, if one does. */
  async leader(): Promise<string | undefined> {
    const leaders = (await this.statuses()).filter((s) => s.role === 'leader').sort((a, b) => b.term - a.term)
    return leaders[0]?.header.member
  }

  stateHashes(): Promise<{ member: string; appliedIndex: number; hash: string }[]> {
    const running = [...this.handles].filter(
      ([m]) => this.simulation.machine(m).up && !this.simulation.machine(m).paused,
    )
    return Promise.all(running.map(async ([member, handle]) => ({ member, ...(await handle.stateHash()) })))
  }

  clientWorld(machine: string): SimWorld {
    return this.world(machine, { component: 'admin', name: machine })
  }

  count(name: string): void {
    this.counts[name] = (this.counts[name] ?? 0) + 1
  }

  private world(machine: string, identity: Identity): SimWorld {
    const token = identityToken(identity)
    const inbox = this.subjects.inbox(token, `i${++this.worlds}`)
    return this.simulation
      .machine(machine)
      .world({ identity: token, inbox, grants: grants(CLUSTER, identity), directory: identity.component })
  }
}
