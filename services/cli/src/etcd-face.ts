import type { Log, World } from '@capstan/actor'
import { type EtcdDoor, openEtcdDoor } from '@capstan/etcd/edge'
import type { ClusterLayout, MasterLayout } from './layout.js'
import type { Secrets } from './pki.js'

/** URLs of each master's etcd face. */
export function etcdUrls(layout: ClusterLayout, host = '127.0.0.1'): Record<string, string[]> {
  return Object.fromEntries(
    layout.masters.flatMap(({ name, etcdPort }) =>
      etcdPort === undefined ? [] : [[name, [`https://${host}:${etcdPort}`]]],
    ),
  )
}

/**
 * The face of a master of `capstan up`. Undefined: the layout is of a version that had none.
 * @throws the listener's error (`EADDRINUSE`).
 */
export async function openMasterEtcd(
  layout: ClusterLayout,
  master: MasterLayout,
  secrets: Secrets,
  log: Log,
  connect: () => World | Promise<World>,
): Promise<EtcdDoor | undefined> {
  const { etcd } = secrets
  const { name, etcdPort } = master
  if (etcdPort === undefined || !etcd) return undefined
  return openEtcdFace({
    cluster: layout.cluster,
    member: name,
    clientUrls: () => etcdUrls(layout),
    hosts: [...new Set(['127.0.0.1', layout.hostAddress])],
    port: etcdPort,
    tls: { ca: etcd.ca, ...etcd.server },
    log,
    connect,
  })
}

/**
 * The store as etcd, on a master's port: listens at once; the face itself and its connection to the bus begin when somebody
 * comes.
 * @throws the listener's error (`EADDRINUSE`).
 */
export function openEtcdFace(options: {
  cluster: string
  /** This master's name, also that of its store member. */
  member: string
  /** URLs of each master's face, as they are when somebody comes. */
  clientUrls: () => Record<string, string[]>
  hosts: readonly string[]
  port: number
  /** PEM. */
  tls: { ca: string; cert: string; key: string }
  log: Log
  connect: () => World | Promise<World>
}): Promise<EtcdDoor> {
  const { cluster, member, hosts, port, tls, log } = options
  return openEtcdDoor({
    hosts,
    port,
    tls,
    log,
    open: async () => {
      const [{ startEtcdFace }, world] = await Promise.all([import('@capstan/etcd'), options.connect()])
      const clientUrls = options.clientUrls()
      const face = startEtcdFace(world, {
        cluster,
        member,
        members: [member, ...Object.keys(clientUrls).filter((other) => other !== member)],
        clientUrls,
      })
      return {
        ...face,
        close() {
          face.close()
          void world.bus.close()
        },
      }
    },
  })
}
