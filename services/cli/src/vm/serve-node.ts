/** A node on a host of its own: kubelet and kube-proxy in it, containerd and the guard beside it. */
import { readFileSync } from 'node:fs'
import type { Log } from '@capstan/actor'
import { makeCertificateRequest } from '@capstan/certs'
import { BusApiClient } from '@capstan/client'
import { processClock } from '../chaos-door.js'
import type { Places } from '../layout.js'
import { startNodeParts } from '../node-parts.js'
import { within } from '../patience.js'
import { writePair } from '../pki.js'
import { linkOf } from '../doctor/probe.js'
import { isDue, lookAgainMs, notAfterMs, readPair } from './certificates.js'
import { askDoor } from './join-client.js'
import type { RenewAnswer } from './join-messages.js'
import { MachineBus } from './machine-bus.js'
import { machineFiles, type NodeMachine } from './machine-file.js'
import { packetRules, startRoutes } from './machine-network.js'
import { MastersList } from './masters-list.js'
import { ClusterRecords } from './records.js'
import { repeat } from './repeat.js'
import type { ServedMachine } from './serve-master.js'

/** How soon a node hears of masters that come and go. It needs one that it knows to be alive. */
const LOOK_MS = 10_000
const CLOSE_TIMEOUT_MS = 1000

export async function serveNode(places: Places, machine: NodeMachine, log: Log): Promise<ServedMachine> {
  const { name, address, settings, runtime, cgroupParent } = machine
  const masters = new MastersList(places)
  const certificates = repeat(
    lookAgainMs(settings),
    () => renewNode(places, machine, masters, log),
    log,
    "this machine's certificate cannot be renewed",
  )
  const bus = new MachineBus(places, machine, masters, log, await processClock(places, name, log))
  const parts = await startNodeParts(places, log, (component) => bus.world(component), {
    cluster: settings.cluster,
    name,
    address,
    runtime,
    cgroupParent,
    identity: settings.identity,
    rules: packetRules(machine),
    mtu: linkOf(address)?.mtu,
  })
  const [world, proxyWorld] = parts.worlds
  const routes = proxyWorld && startRoutes(proxyWorld, machine, log)
  const client = world && new BusApiClient(world, { cluster: settings.cluster, machine: name, callerName: 'machine' })
  const following = repeat(
    LOOK_MS,
    async () => masters.update((client && (await new ClusterRecords(client).masters())) ?? []),
    log,
    'what the cluster knows of its masters cannot be read',
  )
  return {
    async stop(keepPods) {
      certificates.stop()
      following.stop()
      client?.close()
      await Promise.all([parts.stop({ keepPods }), routes?.stop()])
      await within(CLOSE_TIMEOUT_MS, bus.close())
    },
  }
}

/** Asks the masters' doors, one after the other, with the certificate that it still has. Its key is a new one each time. */
async function renewNode(places: Places, machine: NodeMachine, masters: MastersList, log: Log): Promise<void> {
  const nowMs = Date.now()
  const own = readPair(places, 'machine')
  if (!isDue(own.cert, machine.settings, nowMs)) return
  if (notAfterMs(own.cert) <= nowMs)
    throw new Error(
      `the certificate of this machine expired at ${new Date(notAfterMs(own.cert)).toISOString()}: no master lets it in any more. ` +
        'Make a token on a master (capstan token create --role node) and repeat capstan node join with it here',
    )
  const ca = readFileSync(machineFiles(places).ca, 'utf8')
  const { request, key } = await makeCertificateRequest()
  let last: unknown
  for (const { address: host, joinPort: port } of masters.all)
    try {
      const answer = await askDoor<RenewAnswer>({ host, port }, '/v1/renew', { request }, { ca, ...own })
      writePair(places, 'machine', { cert: answer.certificate, key })
      masters.update(answer.masters)
      log.info({ until: new Date(notAfterMs(answer.certificate)).toISOString(), by: host }, 'renewed the certificate')
      return
    } catch (error) {
      last = error
    }
  throw last
}
