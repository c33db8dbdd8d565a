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
 * The store as etcd, on a master's port: listens at once; the face itself and its connection to the bus begin when somebody
 * comes. Undefined: the layout is of a version that had none.
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
  return openEtcdDoor({
    hosts: [...new Set(['127.0.0.1', layout.hostAddress])],
    port: etcdPort,
    tls: { ca: etcd.ca, ...etcd.server },
    log,
    open: async () => {
      const [{ startEtcdFace }, world] = await Promise.all([import('@capstan/etcd'), connect()])
      const face = startEtcdFace(world, {
        cluster: layout.cluster,
        member: name,
        members: [name, ...layout.masters.map((m) => m.name).filter((other) => other !== name)],
        clientUrls: etcdUrls(layout),
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
