/**
 * The process of one master in a pod of `helm/capstan`: `programs/run-master-pod.js CONFIG.json NAME ADDRESS`. Holds the API
 * server, scheduler and controller-manager; its nats-server and its store are containers beside it, which the pod restarts.
 * ADDRESS is where pods of the cluster reach it.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { MemoryDisk, realLog } from '@capstan/real'
import { type MasterParts, startMasterParts } from './master-parts.js'
import { within } from './patience.js'
import { type BusWorld, busWorld } from './worlds.js'

/** The same file for all masters. */
interface MasterPodConfig {
  cluster: string
  /** Names of all masters. */
  members: string[]
  bus: {
    /** `host:port`, the preferred one first. */
    servers: string[]
    /** Directory with `<component>.creds`. */
    credentials: string
    /** Path. */
    ca: string
  }
  /** Paths of PEM files; `ca` signs the certificates of clients. */
  https: { port: number; cert: string; key: string; ca: string }
  /** Paths of PEM files. */
  serviceAccount: { publicKey: string; privateKey: string }
  podCidr: string
  serviceCidr: string
  tolerationSeconds: number
}

const STOP_TIMEOUT_MS = 4000
const COMPONENTS = ['apiserver', 'scheduler', 'controller-manager'] as const

const [path = '', name = '', address = ''] = process.argv.slice(2)
if (!path || !name || !address) {
  console.error('usage: run-master-pod.js CONFIG.json NAME ADDRESS')
  process.exit(2)
}
const config = JSON.parse(readFileSync(path, 'utf8')) as MasterPodConfig
if (!config.members.includes(name)) throw new Error(`${path} names no master ${name}`)
const text = (file: string) => readFileSync(file, 'utf8')
const log = realLog({ name })

const worlds: BusWorld[] = []
let parts: MasterParts | undefined
let stopping = false
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal))

const [apiserver, scheduler, manager] = await Promise.all(COMPONENTS.map((component) => world(component)))
parts = await startMasterParts(
  {
    apiserver: apiserver as BusWorld,
    scheduler: scheduler as BusWorld,
    'controller-manager': manager as BusWorld,
  },
  {
    ...config,
    name,
    masters: config.members,
    advertise: { address, port: config.https.port },
    https: {
      port: config.https.port,
      key: text(config.https.key),
      cert: text(config.https.cert),
      clientCa: text(config.https.ca),
    },
    serviceAccount: {
      publicKey: text(config.serviceAccount.publicKey),
      privateKey: text(config.serviceAccount.privateKey),
    },
  },
)

async function world(component: (typeof COMPONENTS)[number]): Promise<BusWorld> {
  const access = {
    cluster: config.cluster,
    servers: config.bus.servers,
    credentials: readFileSync(join(config.bus.credentials, `${component}.creds`)),
    ca: text(config.bus.ca),
  }
  // They keep nothing on a disk: what a master must remember is in its store.
  const made = await busWorld(
    access,
    { component, name },
    { log: log.child({ component }), disk: new MemoryDisk(), instance: randomBytes(8).toString('hex') },
  )
  worlds.push(made)
  return made
}

async function stop(signal: string): Promise<void> {
  if (stopping) return
  stopping = true
  log.info({ signal }, 'stopping')
  // Store and bus live until this process has ended: the pod ends them after it.
  await parts?.handOver()
  await parts?.close()
  await within(STOP_TIMEOUT_MS, Promise.all(worlds.map(({ bus }) => bus.close())))
  process.exit(0)
}
