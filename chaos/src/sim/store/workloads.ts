import type { LeaseGrantReply, LeaseKeepAliveReply, LeaseTimeToLiveReply } from '@capstan/protocol'
import type { Simulation, SimRandom } from '@capstan/sim'
import type { LeaseRecord } from '../../checkers/leases.js'
import { OpenOperation, type Records } from './records.js'
import type { StoreClient } from './store-client.js'

export const REGISTERS = ['r/a', 'r/b', 'r/c', 'r/d']
export const LIST = 'list'
export const SET = { from: 'set/', to: 'set0' }
const ELEMENTS = ['set/0', 'set/1', 'set/2', 'set/3', 'set/4']
export const LOCK = 'lock'
export const GUARDED = 'guarded'
/** How much a holder of a lock distrusts the clocks of the members, which run within 5 %. */
const CLOCK_MARGIN = 1.06
const LIST_ITEMS_MAX = 60

/** What every workload needs. */
export interface Work {
  simulation: Simulation
  records: Records
  random: SimRandom
  isOver(): boolean
  /** Between two operations of one client, ms. */
  pauseMs: readonly [low: number, high: number]
}

const pause = ({ simulation, random, pauseMs }: Work) => simulation.sleep(random.between(...pauseMs))

/** Reads, writes, deletes and compares single keys. */
export async function registers(work: Work, client: StoreClient): Promise<void> {
  const { random } = work
  for (let n = 0; !work.isOver(); n++) {
    await pause(work)
    if (work.isOver()) return
    await oneRegister(work, client, random.pick(REGISTERS), `${client.name}-${n}`)
  }
}

const lastRevisions = new WeakMap<StoreClient, Map<string, number>>()

/** One operation on a register; by one member if it is named. */
export async function oneRegister(
  { records, random, simulation }: Work,
  client: StoreClient,
  key: string,
  value: string,
  options: { member?: string; kind?: 'get' | 'put' | 'delete'; repeat?: boolean } = {},
): Promise<'done' | 'failed'> {
  const known = lastRevisions.get(client) ?? new Map<string, number>()
  lastRevisions.set(client, known)
  const history = records.registers.get(key) ?? []
  records.registers.set(key, history)
  const dice = random.next()
  const kind = options.kind ?? (dice < 0.45 ? 'get' : dice < 0.75 ? 'put' : dice < 0.85 ? 'delete' : 'compare')
  const nowMs = () => simulation.nowMs
  if (kind === 'get') {
    const operation = new OpenOperation(history, nowMs, client.name, { type: 'get' })
    const answer = await client.read(key, undefined, options.member)
    if (!answer) {
      operation.drop()
      return 'failed'
    }
    const [seen] = answer.keys
    known.set(key, seen?.modRevision ?? 0)
    operation.done({ type: 'read', value: seen?.value, revision: seen?.modRevision ?? 0 })
    return 'done'
  }
  const expected = known.get(key) ?? 0
  const operation = new OpenOperation(
    history,
    nowMs,
    client.name,
    kind === 'put'
      ? { type: 'put', value }
      : kind === 'delete'
        ? { type: 'delete' }
        : { type: 'compareAndSet', expected, value },
  )
  const answer = await client.write(
    {
      what: `${kind} of ${key}`,
      ...(kind === 'compare' ? { compare: [{ key, modRevision: expected }] } : {}),
      ops: [kind === 'delete' ? { delete: key } : { put: key, value }],
    },
    options,
  )
  if (answer.outcome === 'not-applied') operation.drop()
  if (answer.outcome === 'not-applied' || answer.outcome === 'unknown') return 'failed'
  if (answer.outcome === 'written') {
    if (kind !== 'delete') known.set(key, answer.revision)
    operation.done({ type: 'written', revision: answer.revision })
  } else operation.done({ type: 'unchanged' })
  return 'done'
}

/** Appends to a list by reading it and writing it longer if nobody else did. */
export async function list(work: Work, client: StoreClient): Promise<void> {
  const { records, random, simulation } = work
  const nowMs = () => simulation.nowMs
  for (let n = 0; !work.isOver(); n++) {
    await pause(work)
    if (work.isOver()) return
    const look = new OpenOperation(records.list, nowMs, client.name, { type: 'read' })
    const seen = await client.read(LIST)
    if (!seen) {
      look.drop()
      continue
    }
    const [state] = seen.keys
    const items = state?.value ?? ''
    look.done({ type: 'list', items })
    if (random.chance(0.4) || items.split(',').length >= LIST_ITEMS_MAX) continue
    const item = `${client.name}.${n}`
    const append = new OpenOperation(records.list, nowMs, client.name, { type: 'append', item })
    const answer = await client.write({
      what: `append of ${item}`,
      compare: [{ key: LIST, modRevision: state?.modRevision ?? 0 }],
      ops: [{ put: LIST, value: items === '' ? item : `${items},${item}` }],
    })
    if (answer.outcome === 'written') append.done({ type: 'appended' })
    else if (answer.outcome !== 'unknown') append.drop()
  }
}

/** Adds elements, each a key that must not be there, removes them, and reads all in one range. */
export async function set(work: Work, client: StoreClient): Promise<void> {
  const { records, random, simulation } = work
  const nowMs = () => simulation.nowMs
  for (let n = 0; !work.isOver(); n++) {
    await pause(work)
    if (work.isOver()) return
    const dice = random.next()
    if (dice < 0.4) {
      const look = new OpenOperation(records.set, nowMs, client.name, { type: 'read' })
      const seen = await client.read(SET.from, SET.to)
      if (seen) look.done({ type: 'set', elements: seen.keys.map((k) => k.key).join(',') })
      else look.drop()
      continue
    }
    const element = random.pick(ELEMENTS)
    const adds = dice < 0.75
    const change = new OpenOperation(records.set, nowMs, client.name, { type: adds ? 'add' : 'remove', element })
    const answer = await client.write(
      adds
        ? {
            what: `add of ${element}`,
            compare: [{ key: element, modRevision: 0 }],
            ops: [{ put: element, value: `${client.name}-${n}` }],
          }
        : { what: `removal of ${element}`, ops: [{ delete: element }] },
    )
    if (answer.outcome === 'not-applied') change.drop()
    else if (answer.outcome !== 'unknown') change.done({ type: 'changed', changed: answer.outcome === 'written' })
  }
}

/** Grants a lease and notes what is to be known of it; undefined: it was not, or nobody knows. */
export async function grant(work: Work, client: StoreClient, ttlSeconds: number): Promise<LeaseRecord | undefined> {
  const sentMs = work.simulation.nowMs
  const answer = await client.ask<LeaseGrantReply>('leaseGrant', { id: 0, ttlSeconds })
  if (!answer.ok) return undefined
  const answeredMs = work.simulation.nowMs
  const record: LeaseRecord = {
    client: client.name,
    id: answer.reply.id,
    ttlMs: answer.reply.ttlSeconds * 1000,
    renewals: [{ sentMs, answeredMs }],
    lastTriedMs: answeredMs,
    keys: [],
    readsAfterGone: [],
    remaining: [],
  }
  work.records.leases.push(record)
  return record
}

/** One renewal. False: it is gone. */
export async function renew(work: Work, client: StoreClient, lease: LeaseRecord): Promise<boolean> {
  const sentMs = work.simulation.nowMs
  const answer = await client.ask<LeaseKeepAliveReply>('leaseKeepAlive', { id: lease.id }, { timeoutMs: 1500 })
  lease.lastTriedMs = work.simulation.nowMs
  if (answer.ok && answer.reply.ttlSeconds > 0) {
    lease.renewals.push({ sentMs, answeredMs: work.simulation.nowMs })
    return true
  }
  const isGone = answer.ok || answer.code === 'LEASE_NOT_FOUND'
  if (isGone) lease.goneSeen ??= { sentMs, answeredMs: work.simulation.nowMs, revision: work.records.revision }
  return !isGone
}

/** Asks how long it lives until it is gone, then whether its keys are too. */
export async function seeItsEnd(work: Work, client: StoreClient, lease: LeaseRecord, everyMs: number): Promise<void> {
  const { simulation } = work
  const deadlineMs = simulation.nowMs + 10 * lease.ttlMs + 60_000
  while (!work.isOver() && simulation.nowMs < deadlineMs && !lease.goneSeen) {
    await simulation.sleep(everyMs)
    const sentMs = simulation.nowMs
    const answer = await client.ask<LeaseTimeToLiveReply>('leaseTimeToLive', { id: lease.id })
    if (!answer.ok) continue
    const seconds = answer.reply.ttlSeconds
    const at = { sentMs, answeredMs: simulation.nowMs }
    if (seconds < 0) lease.goneSeen = { ...at, revision: answer.reply.header.revision }
    else lease.remaining.push({ ...at, seconds })
  }
  if (!lease.goneSeen) return
  for (const key of lease.keys) {
    const seen = await client.read(key)
    if (seen) lease.readsAfterGone.push({ key, revision: seen.revision, present: seen.keys.length > 0 })
  }
}

/** Leases that are renewed for a while, and then left to end. */
export async function leases(work: Work, client: StoreClient): Promise<void> {
  const { random, simulation } = work
  for (let n = 0; !work.isOver(); n++) {
    await pause(work)
    if (work.isOver()) return
    const lease = await grant(work, client, 2 + random.int(7))
    if (!lease) continue
    const key = `l/${n % 4}`
    const put = await client.write({
      what: `put of ${key}`,
      ops: [{ put: key, value: `${client.name}-${n}`, lease: lease.id }],
    })
    if (put.outcome !== 'not-applied') lease.keys.push(key)
    for (let left = random.int(6); left > 0 && !work.isOver(); left--) {
      await simulation.sleep(random.between(0.2, 0.6) * lease.ttlMs)
      if (!(await renew(work, client, lease))) break
    }
    if (random.chance(0.2)) {
      lease.revokeSentMs = simulation.nowMs
      await client.ask('leaseRevoke', { id: lease.id })
    }
    await seeItsEnd(work, client, lease, lease.ttlMs / 3)
  }
}

/** Takes a lock, writes what it guards under its token, and lets it go or is lost. */
export async function locks(work: Work, client: StoreClient): Promise<void> {
  const { records, random, simulation } = work
  for (let n = 0; !work.isOver(); n++) {
    await pause(work)
    if (work.isOver()) return
    const lease = await grant(work, client, 3 + random.int(4))
    if (!lease) continue
    const holder = `${client.name}-${n}`
    const taken = await client.write({
      what: `taking of ${LOCK}`,
      compare: [{ key: LOCK, modRevision: 0 }],
      ops: [{ put: LOCK, value: holder, lease: lease.id }],
    })
    if (taken.outcome !== 'written') continue // Its lease ends by itself, with whatever it may have written.
    lease.keys.push(LOCK)
    const holding = { holder, token: taken.revision, acquiredMs: simulation.nowMs, untilMs: simulation.nowMs }
    const validUntil = () => (lease.renewals.at(-1)?.sentMs ?? 0) + lease.ttlMs / CLOCK_MARGIN
    const holdsFor = random.between(1, 3) * lease.ttlMs
    for (let m = 0; simulation.nowMs < Math.min(validUntil(), holding.acquiredMs + holdsFor) && !work.isOver(); m++) {
      await client.write({
        what: `write under ${LOCK}`,
        created: { key: LOCK, revision: holding.token },
        ops: [{ put: GUARDED, value: `${holding.token}#${holder}#${m}` }],
      })
      await simulation.sleep(lease.ttlMs / 3)
      if (!(await renew(work, client, lease))) break
    }
    holding.untilMs = Math.min(simulation.nowMs, validUntil())
    records.holdings.push(holding)
    const dice = random.next()
    if (dice < 0.5) {
      lease.revokeSentMs = simulation.nowMs
      await client.ask('leaseRevoke', { id: lease.id })
    } else if (dice < 0.75) await seeItsEnd(work, client, lease, lease.ttlMs / 3)
  }
}
