/** A master on a host of its own: its nats-server and store beside it; API server, scheduler, controller-manager and join door in it. */
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { Log } from '@capstan/actor'
import { accountJwt, busServerConfig, makeSystemUser } from '@capstan/certs'
import { BusApiClient } from '@capstan/client'
import { identityToken } from '@capstan/protocol'
import { pushAccountJwt } from '@capstan/real'
import { processClock } from '../chaos-door.js'
import { openEtcdFace } from '../etcd-face.js'
import { electionTimes, type Places } from '../layout.js'
import {
  startNats,
  startStore,
  type StoreProcessConfig,
  writeNatsConfig,
  writeStoreConfig,
} from '../master-children.js'
import { startMasterParts } from '../master-parts.js'
import { within } from '../patience.js'
import { accepts, waitFor } from '../process-file.js'
import type { BusWorld } from '../worlds.js'
import { readAuthorities, writeBusAuthority } from './authorities.js'
import { lookAgainMs, readPair, renewMaster } from './certificates.js'
import { type DoorCertificates, openJoinDoor } from './join-door.js'
import { busAccess, MachineBus } from './machine-bus.js'
import { busServersOf, machineFiles, masterRecord, type MasterMachine } from './machine-file.js'
import { startGateway } from './machine-network.js'
import { sweepTokens } from './join-tokens.js'
import { MastersList } from './masters-list.js'
import { ClusterRecords } from './records.js'
import { repeat } from './repeat.js'
import { StoreMembers } from './store-members.js'

const OWN_BUS_TIMEOUT_MS = 5000
const STOP_TIMEOUT_MS = 4000
/** How soon a master hears of others that come and go, and of revocations. */
const LOOK_MS = 2000
const MEMBERSHIP_MS = 1000
const SWEEP_MS = 600_000
const EXPIRED_KEPT_MS = 24 * 3_600_000

export interface ServedMachine {
  /** Clean end, within some seconds. `keepPods`: of a node, containers go on, and are found again by its next start. */
  stop(keepPods: boolean): Promise<void>
}

/** @throws a listener's error (`EADDRINUSE`). */
export async function serveMaster(places: Places, machine: MasterMachine, log: Log): Promise<ServedMachine> {
  const { name, address, settings } = machine
  const directory = places.machine(name)
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const authorities = readAuthorities(places)
  // It has the authorities' keys: certificates that ran out while it was down are no obstacle.
  await renewMaster(places, machine, authorities)
  const masters = new MastersList(places)
  const files = machineFiles(places)

  const natsConfig = () =>
    busServerConfig(authorities.bus, {
      name,
      cluster: settings.cluster,
      listen: { host: address, port: machine.busPort },
      route: { host: address, port: machine.routePort },
      peers: masters.all.filter((other) => other.name !== name).map((other) => `${other.address}:${other.routePort}`),
      routePassword: authorities.routePassword,
      directory: join(directory, 'nats'),
      tls: { ...files.pair('bus-server'), ca: files.busCa, clientCa: files.machineCa },
    })
  const storeConfig = (): StoreProcessConfig => ({
    cluster: settings.cluster,
    clusterId: settings.clusterId,
    member: name,
    members: [settings.firstMaster],
    emptyDirectory: emptyDirectoryOf(places, machine),
    dataDir: join(directory, 'store'),
    ...electionTimes(settings.recovery),
    bus: {
      servers: busServersOf(masters.all, name),
      credentials: places.creds(identityToken({ component: 'store', name })),
      ca: files.busCa,
      clientCertificate: files.pair('machine'),
      beside: Object.fromEntries(masters.all.map((one) => [one.name, `${one.address}:${one.busPort}`])),
    },
  })
  const nats = startNats(places, log, name, natsConfig())
  const store = startStore(places, log, storeConfig())
  masters.onChange(() => {
    log.info({ masters: masters.all.map((master) => master.name) }, 'the masters are others now')
    // For its next start. Now a new master's server makes the routes; to read its file again a server leaves all clients.
    writeNatsConfig(places, name, natsConfig())
    writeStoreConfig(places, storeConfig())
    store.signal('SIGHUP')
  })

  // Its own server comes first: who connects to another one dies a little with that machine.
  await waitFor(() => accepts(address, machine.busPort), OWN_BUS_TIMEOUT_MS, 20)
  const bus = new MachineBus(places, machine, masters, log, await processClock(places, name, log))
  const [apiserver, scheduler, manager] = (await Promise.all(
    (['apiserver', 'scheduler', 'controller-manager'] as const).map((component) => bus.world(component)),
  )) as [BusWorld, BusWorld, BusWorld]
  const ca = authorities.certificates.ca.cert
  const parts = await startMasterParts(
    { apiserver, scheduler, 'controller-manager': manager },
    {
      ...settings,
      name,
      masters: masters.all.map((master) => master.name),
      advertise: { address, port: machine.apiPort },
      https: { port: machine.apiPort, hosts: [address], ...readPair(places, 'apiserver'), clientCa: ca },
      serviceAccount: authorities.serviceAccount,
    },
  )
  const etcdTls = () => ({ ca: authorities.certificates['etcd-ca'].cert, ...readPair(places, 'etcd-server') })
  const etcd = await openEtcdFace({
    cluster: settings.cluster,
    member: name,
    clientUrls: () =>
      Object.fromEntries(masters.all.map((one) => [one.name, [`https://${one.address}:${one.etcdPort}`]])),
    hosts: [address],
    port: machine.etcdPort,
    tls: etcdTls(),
    log: log.child({ component: 'etcd' }),
    connect: () => bus.world('etcd'),
  })

  const gateway = await startGateway(bus, machine, log)
  const client = new BusApiClient(apiserver, { cluster: settings.cluster, machine: name, callerName: 'machine' })
  const records = new ClusterRecords(client)
  const members = new StoreMembers(apiserver, settings.cluster, () => masters.all.map((master) => master.name))
  const doorCertificates = (): DoorCertificates => ({
    ...readPair(places, 'door'),
    ca,
    machineCa: authorities.certificates['machine-ca'].cert,
  })
  const door = await openJoinDoor(
    { settings, client, authorities: () => authorities, addStoreMember: (joining) => members.add(joining) },
    { host: address, port: machine.joinPort, certificates: doorCertificates(), log: log.child({ component: 'door' }) },
  )

  /** As the running server has it; missing: nothing was pushed in this life. */
  let pushedJwt: string | undefined
  const keepers = [
    repeat(LOOK_MS, followCluster, log, 'what the cluster knows of its masters cannot be read'),
    repeat(lookAgainMs(settings), renewCertificates, log, 'certificates cannot be renewed'),
    repeat(SWEEP_MS, () => sweepTokens(client, Date.now(), EXPIRED_KEPT_MS), log, 'old tokens cannot be removed'),
  ]
  const voting = repeat(MEMBERSHIP_MS, becomeVoter, log, 'this master does not vote in the store yet')

  async function followCluster(): Promise<void> {
    if (machine.origin === 'init' && existsSync(places.newCluster)) {
      await parts.api.whenBootstrapped()
      await records.register({ role: 'master', name, address, busKeys: authorities.bus.users })
      await records.addMaster(masterRecord(machine), { onlyFirst: true })
      // From here on an empty directory of the store is one that was lost.
      rmSync(places.newCluster, { force: true })
      writeStoreConfig(places, storeConfig())
    }
    const known = await records.masters()
    if (known && !known.some((master) => master.name === name))
      throw new Error(`${name} was removed from the cluster; clear this machine by: capstan leave`)
    masters.update(known ?? [])
    await followRevocations()
  }

  async function followRevocations(): Promise<void> {
    const authority = authorities.bus
    const revocations = await records.revocations()
    if (!isDeepStrictEqual(revocations, authority.revocations)) {
      authority.revocations = revocations
      authority.accountJwt = await accountJwt(authority)
      writeBusAuthority(places, authority)
      writeNatsConfig(places, name, natsConfig())
    }
    if (Object.keys(revocations).length === 0 || authority.accountJwt === pushedJwt) return
    const { ca: busCa, clientCertificate } = busAccess(places, machine, masters, 'machine')
    await pushAccountJwt({
      servers: [`${address}:${machine.busPort}`],
      credentials: await makeSystemUser(authority),
      accountJwt: authority.accountJwt,
      log,
      ...(busCa === undefined ? {} : { ca: busCa }),
      ...(clientCertificate ? { clientCertificate } : {}),
    })
    pushedJwt = authority.accountJwt
  }

  async function renewCertificates(): Promise<void> {
    const renewed = await renewMaster(places, machine, authorities)
    if (renewed.length === 0) return
    log.info({ certificates: renewed }, 'renewed certificates')
    if (renewed.includes('apiserver')) parts.renew({ ...readPair(places, 'apiserver'), clientCa: ca })
    if (renewed.includes('door')) door.renew(doorCertificates())
    if (renewed.includes('etcd-server')) etcd.renew(etcdTls())
    if (renewed.includes('bus-server')) nats.signal('SIGHUP')
  }

  async function becomeVoter(): Promise<void> {
    if (await members.promote(name)) {
      log.info({ member: name }, 'votes in the store')
      voting.stop()
    }
  }

  return {
    async stop() {
      for (const keeper of [...keepers, voting]) keeper.stop()
      // Those that lead hand over first; then the doors close; then the store says goodbye over a bus that still lives.
      await parts.handOver()
      members.close()
      client.close()
      await gateway?.stop()
      await within(STOP_TIMEOUT_MS, Promise.all([parts.close(), etcd.close(), door.close()]))
      await store.stop(STOP_TIMEOUT_MS)
      await within(STOP_TIMEOUT_MS, bus.close())
      await nats.stop(STOP_TIMEOUT_MS)
    },
  }
}

/** The first master makes the cluster, once. A member that joined is known by the others under whatever it has on its disk. */
function emptyDirectoryOf(places: Places, { origin }: MasterMachine): StoreProcessConfig['emptyDirectory'] {
  if (origin === 'join') return 'join'
  return existsSync(places.newCluster) ? 'new' : 'existing'
}
