import type { Bus, World } from '@capstan/actor'
import { BusApiClient } from '@capstan/client'
import { grants, type Identity, identityToken, Subjects } from '@capstan/protocol'
import { MemoryBroker, RealClock, RealRandom, silentLog } from '@capstan/real'
import type { ApiServerHandle, ApiServerOptions } from '../options.js'
import { startApiServer } from '../server.js'
import { startTestStore, type TestStore } from './test-store.js'

export interface TestApiOptions {
  /** Default `test`. */
  cluster?: string
  /** Names of API servers, all over the one store. Default `['api-0']`. */
  instances?: readonly string[]
  /**
   * A world whose bus has this identity. Default: real clock and chance, an in-process bus of its own, no log. Give one for
   * virtual time (`manualWorld` of libs/client, libs/sim).
   */
  worldFor?(identity: Identity, cluster: string): World
  server?: Partial<ApiServerOptions>
}

/** API servers over one store in memory: the real REST machinery, with nothing installed. */
export interface TestApi {
  readonly cluster: string
  readonly store: TestStore
  readonly servers: readonly ApiServerHandle[]
  /** The first server. */
  readonly api: ApiServerHandle
  worldFor(identity: Identity): World
  /** A client as this component: `client({ component: 'scheduler', name: 'm0' })`. Closed by `stop`. */
  client(identity?: Identity): BusApiClient
  stop(): Promise<void>
}

/** Resolves when all servers are ready and the system's namespaces are there. */
export async function createTestApi(options: TestApiOptions = {}): Promise<TestApi> {
  const test = startTestApi(options)
  await Promise.all(test.servers.map((server) => server.whenReady()))
  await test.api.whenBootstrapped()
  return test
}

/** The same, not waiting for anything: for worlds whose time only the test moves. */
export function startTestApi(options: TestApiOptions = {}): TestApi {
  const cluster = options.cluster ?? 'test'
  const worldFor = options.worldFor ?? realWorlds()
  const buses: Bus[] = []
  const connect = (identity: Identity): World => {
    const world = worldFor(identity, cluster)
    buses.push(world.bus)
    return world
  }
  const store = startTestStore(connect({ component: 'store', name: 's0' }), { cluster, member: 's0' })
  const servers = (options.instances ?? ['api-0']).map((instance) =>
    startApiServer(connect({ component: 'apiserver', name: instance }), {
      cluster,
      instance,
      storeMembers: ['s0'],
      ...options.server,
    }),
  )
  const clients: BusApiClient[] = []
  const api = servers[0] as ApiServerHandle
  return {
    cluster,
    store,
    servers,
    api,
    worldFor: connect,
    client(identity = { component: 'admin', name: 'test' }) {
      const client = new BusApiClient(connect(identity), { cluster, machine: identity.name })
      clients.push(client)
      return client
    },
    async stop() {
      for (const client of clients) client.close()
      for (const server of servers) await server.stop()
      store.stop()
      for (const bus of buses) await bus.close()
    },
  }
}

function realWorlds(): (identity: Identity, cluster: string) => World {
  const broker = new MemoryBroker()
  let connections = 0
  return (identity, cluster) => {
    const token = identityToken(identity)
    const inbox = new Subjects(cluster).inbox(token, String(++connections))
    const bus = broker.connect({ identity: token, inbox, grants: grants(cluster, identity) })
    const disk = new Proxy({} as World['disk'], {
      get() {
        throw new Error('an API server has no disk')
      },
    })
    return { clock: new RealClock(), random: new RealRandom(), bus, disk, log: silentLog }
  }
}
