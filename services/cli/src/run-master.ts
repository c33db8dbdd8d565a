/**
 * The process of one master: `programs/run-master.js DATA NAME`. Leader of the machine's process group. Holds the API server,
 * scheduler and controller-manager, and supervises the machine's nats-server and its store (processes of their own).
 */
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { busServerConfig } from '@capstan/certs'
import { identityToken } from '@capstan/protocol'
import { realLog } from '@capstan/real'
import type { SupervisedChild } from './child.js'
import { processClock } from './chaos-door.js'
import { openMasterEtcd } from './etcd-face.js'
import { existingLayout } from './layout-file.js'
import { type ClusterLayout, electionTimes, type MasterLayout, Places } from './layout.js'
import { startNats, startStore } from './master-children.js'
import { startMasterParts } from './master-parts.js'
import { once, within } from './patience.js'
import { readBusAuthority, readSecrets } from './pki.js'
import { accepts, waitFor } from './process-file.js'
import { busServers, realWorld } from './worlds.js'

const STOP_TIMEOUT_MS = 4000
const OWN_BUS_TIMEOUT_MS = 5000

const [data = '', name = ''] = process.argv.slice(2)
const places = new Places(data)
const layout = existingLayout(places)
const me = layout.masters.find((master) => master.name === name)
if (!me) throw new Error(`no master ${name} in ${places.layout}`)
const log = realLog({ name })
await runMaster(layout, me)

async function runMaster(cluster: ClusterLayout, master: MasterLayout): Promise<void> {
  const directory = places.machine(master.name)
  mkdirSync(directory, { recursive: true })
  const busServer = startBusServer(cluster, master, directory)
  const store = startStoreProcess(cluster, master, directory)

  // Its own server comes first: who connects to another one dies a little with that machine.
  await waitFor(() => accepts(cluster.hostAddress, master.natsPort), OWN_BUS_TIMEOUT_MS, 20)

  const clock = await processClock(places, master.name, log)
  const world = (component: 'apiserver' | 'scheduler' | 'controller-manager' | 'etcd') =>
    realWorld(
      cluster,
      places,
      { component, name: master.name },
      { log: log.child({ component }), machine: master.name, clock },
    )
  const [apiWorld, schedulerWorld, managerWorld] = await Promise.all([
    world('apiserver'),
    world('scheduler'),
    world('controller-manager'),
  ])

  const secrets = readSecrets(places)
  const { server, ca, serviceAccount } = secrets
  const parts = await startMasterParts(
    { apiserver: apiWorld, scheduler: schedulerWorld, 'controller-manager': managerWorld },
    {
      ...cluster,
      name: master.name,
      masters: cluster.masters.map((m) => m.name),
      advertise: { address: cluster.hostAddress, port: master.apiPort },
      https: {
        port: master.apiPort,
        hosts: [...new Set(['127.0.0.1', cluster.hostAddress])],
        ...server,
        clientCa: ca.cert,
      },
      serviceAccount,
    },
  )
  const etcd = await openMasterEtcd(cluster, master, secrets, log.child({ component: 'etcd' }), () => world('etcd'))

  const stop = once(async (signal: string) => {
    log.info({ signal }, 'stopping')
    // Those that lead hand over first; then the door closes; then the store says goodbye over a bus that still lives.
    await parts.handOver()
    await Promise.all([parts.close(), within(STOP_TIMEOUT_MS, Promise.resolve(etcd?.close()))])
    await store.stop(STOP_TIMEOUT_MS)
    await within(STOP_TIMEOUT_MS, Promise.all([apiWorld, schedulerWorld, managerWorld].map((w) => w.bus.close())))
    await busServer.stop(STOP_TIMEOUT_MS)
    process.exit(0)
  })
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal))
}

function startBusServer(cluster: ClusterLayout, master: MasterLayout, directory: string): SupervisedChild {
  const { authority, routePassword } = readBusAuthority(places)
  const config = busServerConfig(authority, {
    name: master.name,
    cluster: cluster.cluster,
    listen: { host: cluster.hostAddress, port: master.natsPort },
    route: { host: '127.0.0.1', port: master.natsRoutePort },
    peers: cluster.masters.filter((m) => m !== master).map((m) => `127.0.0.1:${m.natsRoutePort}`),
    routePassword,
    directory: join(directory, 'nats'),
  })
  return startNats(places, log, master.name, config)
}

function startStoreProcess(cluster: ClusterLayout, master: MasterLayout, directory: string): SupervisedChild {
  return startStore(places, log, {
    cluster: cluster.cluster,
    clusterId: readSecrets(places).clusterId,
    member: master.name,
    members: cluster.masters.map((m) => m.name),
    // `up` makes a cluster whose members all begin together; a directory that is emptied later is another matter.
    emptyDirectory: existsSync(places.newCluster) ? 'new' : 'existing',
    dataDir: join(directory, 'store'),
    ...electionTimes(cluster.recovery),
    bus: {
      servers: busServers(cluster, master.name),
      credentials: places.creds(identityToken({ component: 'store', name: master.name })),
      beside: Object.fromEntries(cluster.masters.map((m) => [m.name, `${cluster.hostAddress}:${m.natsPort}`])),
    },
  })
}
