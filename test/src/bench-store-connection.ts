/** What the clients of the benchmark of the store ask of either side, each over its own protocol. */
import { readFileSync } from 'node:fs'
import { Caller } from '@capstan/actor'
import { grants, type Identity, identityToken, Subjects, type TxnRequest } from '@capstan/protocol'
import { NatsBus, RealClock, silentLog } from '@capstan/real'
import { EtcdConnection } from './bench-store-etcd.js'

/** Where a client connects: sent to client processes as it is. */
export type Target =
  | { side: 'capstan'; cluster: string; member: string; servers: string[]; credentials: string }
  | { side: 'etcd'; endpoint: string }

/** Who the benchmark is on the bus. */
export const BENCH: Identity = { component: 'admin', name: 'bench' }

export interface Connection {
  put(key: Uint8Array, value: Uint8Array, timeoutMs: number): Promise<unknown>
  /** All in one transaction. */
  putMany(pairs: readonly (readonly [Uint8Array, Uint8Array])[], timeoutMs: number): Promise<unknown>
  /** Linearizable. */
  get(key: Uint8Array, timeoutMs: number): Promise<boolean>
  /** `count` watches of one key; resolves when all of them are open. `event` says how many events came. */
  watch(key: Uint8Array, count: number, event: (events: number) => void, lost: (why: string) => void): Promise<void>
  close(): Promise<void>
}

export async function openConnection(target: Target): Promise<Connection> {
  if (target.side === 'capstan') return CapstanConnection.open(target)
  const etcd = await EtcdConnection.open(target.endpoint)
  return {
    // A timer for each call would be the client's burden alone: etcd has its own time-out.
    put: (key, value) => etcd.put(key, value),
    putMany: (pairs) => etcd.putMany(pairs),
    get: (key) => etcd.get(key),
    watch: (key, count, event, lost) => etcd.watch(key, count, event, lost),
    close: async () => etcd.close(),
  }
}

let connections = 0

export class CapstanConnection implements Connection {
  private constructor(
    private readonly bus: NatsBus,
    private readonly caller: Caller,
    private readonly subject: (verb: string) => string,
  ) {}

  static async open(target: Target & { side: 'capstan' }): Promise<CapstanConnection> {
    const subjects = new Subjects(target.cluster)
    const token = identityToken(BENCH)
    const log = silentLog
    const bus = await NatsBus.connect({
      servers: target.servers,
      identity: token,
      inbox: subjects.inbox(token, `${process.pid}-${++connections}`),
      grants: grants(target.cluster, BENCH),
      credentials: readFileSync(target.credentials),
      log,
    })
    const caller = new Caller({ clock: new RealClock(), bus, log })
    return new CapstanConnection(bus, caller, (verb) => subjects.store(target.member, token, verb))
  }

  call(verb: string, body: unknown, timeoutMs: number): Promise<unknown> {
    return this.caller.call(this.subject(verb), body, { timeoutMs })
  }

  put(key: Uint8Array, value: Uint8Array, timeoutMs: number): Promise<unknown> {
    return this.putMany([[key, value]], timeoutMs)
  }

  putMany(pairs: readonly (readonly [Uint8Array, Uint8Array])[], timeoutMs: number): Promise<unknown> {
    const txn: TxnRequest = {
      compare: [],
      success: pairs.map(([key, value]) => ({ type: 'put', key, value })),
      failure: [],
    }
    return this.call('txn', txn, timeoutMs)
  }

  async get(key: Uint8Array, timeoutMs: number): Promise<boolean> {
    return ((await this.call('range', { key }, timeoutMs)) as { count: number }).count > 0
  }

  async watch(
    key: Uint8Array,
    count: number,
    event: (events: number) => void,
    lost: (why: string) => void,
  ): Promise<void> {
    const open = () =>
      new Promise<void>((resolve) => {
        let first = true
        this.caller.openStream(
          this.subject('watch'),
          { key },
          {
            data: (body) => {
              if (first) resolve()
              first = false
              const { events } = body as { events: unknown[] }
              if (events.length > 0) event(events.length)
            },
            end: (reason, error) => lost(`${reason} ${error?.message ?? ''}`),
          },
          { timeoutMs: 10_000 },
        )
      })
    await Promise.all(Array.from({ length: count }, open))
  }

  async close(): Promise<void> {
    this.caller.close()
    await this.bus.close()
  }
}
