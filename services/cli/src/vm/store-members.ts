import { CallError, Caller } from '@capstan/actor'
import { type MembersReply, type StoreVerb, Subjects } from '@capstan/protocol'
import type { BusWorld } from '../worlds.js'

const ANSWER_MS = 5000
/** Codes after which another member is asked. Nothing happened, or what is asked may happen twice. */
const ASK_NEXT = new Set(['NO_RESPONDERS', 'STOPPED', 'OVERLOADED', 'TIMEOUT', 'NO_LEADER', 'LEADER_CHANGED'])
const BUSY_MS = 300
const BUSY_ATTEMPTS = 30

/** Who takes part in the store. Each order may be given again: it then finds that it is done. */
export class StoreMembers {
  private readonly caller: Caller
  private readonly subjects: Subjects

  constructor(
    private readonly world: BusWorld,
    cluster: string,
    /** Whom to ask. */
    private readonly names: () => readonly string[],
  ) {
    this.caller = new Caller(world, { name: 'members' })
    this.subjects = new Subjects(cluster)
  }

  async list(): Promise<MembersReply['members']> {
    return ((await this.ask('members', {})) as MembersReply).members
  }

  /** As a learner. @throws CallError */
  async add(member: string): Promise<void> {
    await this.untilFree(async () => {
      if (!(await this.list()).some(({ name }) => name === member)) await this.ask('memberAdd', { member })
    })
  }

  /** @throws CallError (`UNHEALTHY`: those left would be no quorum) */
  async remove(member: string): Promise<void> {
    await this.untilFree(async () => {
      if ((await this.list()).some(({ name }) => name === member)) await this.ask('memberRemove', { member })
    })
  }

  /** True: it votes. False: not yet; it lags, or others are changed. @throws CallError */
  async promote(member: string): Promise<boolean> {
    const own = (await this.list()).find(({ name }) => name === member)
    if (!own) return false
    if (!own.learner) return true
    try {
      await this.ask('memberPromote', { member })
      return true
    } catch (error) {
      if (error instanceof CallError && ['LEARNER_NOT_READY', 'MEMBERS_BUSY'].includes(error.code)) return false
      throw error
    }
  }

  close(): void {
    this.caller.close()
  }

  /** One change at a time: machines that join at once take turns. */
  private async untilFree(change: () => Promise<void>): Promise<void> {
    for (let attempt = 1; ; attempt++)
      try {
        return await change()
      } catch (error) {
        const waits = error instanceof CallError && error.code === 'MEMBERS_BUSY'
        if (!waits || attempt === BUSY_ATTEMPTS) throw error
        await new Promise((resolve) => setTimeout(resolve, BUSY_MS))
      }
  }

  private async ask(verb: StoreVerb, body: unknown): Promise<unknown> {
    let last: unknown = new CallError('NO_RESPONDERS', 'not-applied', 'no master is known')
    for (const name of this.names())
      try {
        const subject = this.subjects.store(name, this.world.bus.identity, verb)
        return await this.caller.call(subject, body, { timeoutMs: ANSWER_MS })
      } catch (error) {
        last = error
        if (!(error instanceof CallError) || !ASK_NEXT.has(error.code)) throw error
      }
    throw last
  }
}
