import { sleep } from '@capstan/actor'
import type {
  Alarm,
  AlarmReply,
  AlarmRequest as StoreAlarmRequest,
  BackupData,
  HashReply,
  StoreStatusReply,
} from '@capstan/protocol'
import { membersOf } from './cluster.js'
import { etcdError, EtcdError, GRPC } from './etcd-error.js'
import type { FaceContext } from './face.js'
import {
  ALARM_ACTIONS,
  ALARM_KINDS,
  AlarmRequest,
  AlarmResponse,
  Empty,
  HashKvRequest,
  HashKvResponse,
  HashResponse,
  HeaderOnly,
  MoveLeaderRequest,
  SnapshotResponse,
  StatusResponse,
} from './messages.js'
import { ETCD_VERSION } from './options.js'
import { type Methods, stream, unary } from './rpc.js'

const SNAPSHOT_CREDITS = 8
const LEADER_LOOK_MS = 20
const ALARMS_MS = 1000

export function maintenanceMethods(face: FaceContext): Methods {
  const { store, options } = face
  const statusHere = (timeoutMs: number) =>
    store.at1(options.member, 'status', {}, timeoutMs) as Promise<StoreStatusReply>
  const timeoutOf = (call: { remainingMs: number | undefined }) =>
    Math.min(options.requestTimeoutMs, call.remainingMs ?? options.requestTimeoutMs)

  return {
    '/etcdserverpb.Maintenance/Status': unary(Empty, StatusResponse, async (_, call) => {
      const status = await statusHere(timeoutOf(call))
      const header = face.header(status.header)
      const errors = status.leader === undefined ? ['etcdserver: no leader'] : []
      const alarms = status.leader === undefined ? [] : await alarmsHere()
      return {
        header,
        version: ETCD_VERSION,
        dbSize: status.dbSizeBytes,
        dbSizeInUse: status.dbSizeBytes,
        leader: status.leader === undefined ? 0n : face.ids.member(status.leader),
        raftIndex: status.commitIndex,
        raftTerm: status.term,
        raftAppliedIndex: status.appliedIndex,
        errors: [...errors, ...alarms.map(describeAlarm)],
        isLearner: status.role === 'learner',
      }
    }),

    '/etcdserverpb.Maintenance/Alarm': unary(AlarmRequest, AlarmResponse, async (request, call) => {
      const kind = ALARM_KINDS[request.alarm]
      const action = ALARM_ACTIONS[request.action] ?? 'list'
      if (action === 'list' || kind === undefined) {
        const reply = await askAlarm({ action: 'list' }, call)
        const alarms = kind ? reply.alarms.filter(({ alarm }) => alarm === kind) : reply.alarms
        // Raising or clearing "no alarm" does nothing.
        return { header: face.header(reply.header), alarms: action === 'list' ? alarms.map(show) : [] }
      }
      const before = await askAlarm({ action: 'list' }, call)
      const member = await memberNamed(request.memberId, before.alarms, call)
      if (member === undefined) return { header: face.header(before.header) }
      const reply = await askAlarm({ action, alarm: kind, member, byHand: true }, call)
      const was = before.alarms.some((one) => one.member === member && one.alarm === kind)
      // etcd names what it raised (also if it was there), and what it cleared.
      const named = action === 'raise' || was ? [{ member, alarm: kind }] : []
      return { header: face.header(reply.header), alarms: named.map(show) }
    }),

    // Space is given back as it falls free: nothing has to be done by hand.
    '/etcdserverpb.Maintenance/Defragment': unary(Empty, HeaderOnly, async () => ({
      header: face.header(await face.lastSeen()),
    })),

    '/etcdserverpb.Maintenance/Hash': unary(Empty, HashResponse, async (_, call) => {
      const reply = (await store.at1(options.member, 'hash', {}, timeoutOf(call))) as HashReply
      return { header: { ...face.header(reply.header), revision: reply.hashRevision }, hash: reply.hash }
    }),

    '/etcdserverpb.Maintenance/HashKV': unary(HashKvRequest, HashKvResponse, async (request, call) => {
      const body = { revision: Math.max(0, request.revision) }
      const reply = (await store.at1(options.member, 'hash', body, timeoutOf(call))) as HashReply
      return {
        header: { ...face.header(reply.header), revision: reply.header.revision },
        hash: reply.hash,
        compactRevision: reply.compactRevision,
      }
    }),

    '/etcdserverpb.Maintenance/Snapshot': stream(Empty, SnapshotResponse, (calls) => {
      const { signal } = calls.context
      calls.receive({
        request: () => {
          let whole = false
          const pieces = store.streamAt(
            options.member,
            'backup',
            {},
            {
              // The next piece is asked for when this one has gone out.
              data: async (body) => {
                const { data, done } = body as BackupData
                // How much is left is not known beforehand; etcd's clients read to the end.
                await calls.send({ blob: data, remainingBytes: 0 })
                if (!done) return
                whole = true
                calls.end()
              },
              end: (reason, error) => {
                if (!whole && reason !== 'cancelled')
                  calls.end(error ?? new EtcdError(GRPC.UNAVAILABLE, `etcdserver: the snapshot broke off: ${reason}`))
              },
            },
            SNAPSHOT_CREDITS,
          )
          signal.addEventListener('abort', () => pieces.cancel(), { once: true })
        },
        done: () => undefined,
      })
    }),

    '/etcdserverpb.Maintenance/MoveLeader': unary(MoveLeaderRequest, HeaderOnly, async (request, call) => {
      const status = await statusHere(timeoutOf(call))
      if (status.role !== 'leader') throw etcdError('NOT_LEADER')
      const { members } = await membersOf(face, call)
      const to = members.find(({ name, learner }) => !learner && face.ids.member(name) === request.targetId)?.name
      if (to === undefined) throw etcdError('BAD_LEADER_TRANSFEREE')
      if (to !== options.member) await store.at1(options.member, 'moveLeader', { to }, timeoutOf(call))
      // As etcd: answered when it leads.
      for (;;) {
        const now = await statusHere(timeoutOf(call))
        if (now.leader === to) return { header: face.header(now.header) }
        if (!(await sleep(face.world.clock, LEADER_LOOK_MS, call.signal))) throw etcdError('TIMEOUT')
      }
    }),
  }

  async function askAlarm(request: StoreAlarmRequest, call: Parameters<FaceContext['ask']>[0]): Promise<AlarmReply> {
    // Raising and clearing twice is as once.
    return (await store.ask('alarm', request, {
      ...face.ask(call),
      repeatable: true,
      first: request.action === 'list' ? 'nearest' : 'leader',
    })) as AlarmReply
  }

  /** A status must come also from a member that cannot tell its alarms. */
  async function alarmsHere(): Promise<Alarm[]> {
    try {
      return ((await store.at1(options.member, 'alarm', { action: 'list' }, ALARMS_MS)) as AlarmReply).alarms
    } catch (error) {
      face.world.log.debug({ err: error }, 'alarms not known')
      return []
    }
  }

  /** A member, or one that was and left an alarm behind. */
  async function memberNamed(
    id: bigint,
    alarms: readonly Alarm[],
    call: Parameters<FaceContext['ask']>[0],
  ): Promise<string | undefined> {
    const { members } = await membersOf(face, call)
    const names = [...members.map(({ name }) => name), ...alarms.map(({ member }) => member)]
    return names.find((name) => face.ids.member(name) === id)
  }

  function show({ member, alarm }: Alarm) {
    return { memberId: face.ids.member(member), alarm: ALARM_KINDS.indexOf(alarm) }
  }

  function describeAlarm({ member, alarm }: Alarm): string {
    return `memberID:${face.ids.member(member)} alarm:${alarm} `
  }
}
