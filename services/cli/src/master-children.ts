/** The processes beside a master's own: its nats-server and its store. */
import { join } from 'node:path'
import type { Log } from '@capstan/actor'
import { chaosSocket, readChaosFile } from './chaos-door.js'
import { SupervisedChild } from './child.js'
import type { Places } from './layout.js'
import { write } from './pki.js'
import { isRoot } from './shell.js'
import { storeProcessCommand } from './store-process.js'

const NICENESS = '-10'

/** The file that a store's process is started with (`services/store/src/main.ts`). */
export interface StoreProcessConfig {
  cluster: string
  clusterId: string
  member: string
  members: string[]
  emptyDirectory: 'new' | 'existing' | 'join'
  dataDir: string
  heartbeatMs: number
  electionTimeoutMs: number
  bus: {
    servers: string[]
    credentials: string
    ca?: string
    clientCertificate?: { cert: string; key: string }
    beside: Record<string, string>
  }
}

const natsConfig = (places: Places, name: string) => join(places.machine(name), 'nats.conf')
const storeConfig = (places: Places, name: string) => join(places.machine(name), 'store.json')

/** `config`: as `busServerConfig` makes it. */
export function startNats(places: Places, log: Log, name: string, config: string): SupervisedChild {
  writeNatsConfig(places, name, config)
  return supervise(places, log, `${name}-nats`, ['nats-server', '-c', natsConfig(places, name)])
}

/** For its next start, or SIGHUP. */
export function writeNatsConfig(places: Places, name: string, config: string): void {
  write(natsConfig(places, name), config)
}

export function startStore(places: Places, log: Log, config: StoreProcessConfig): SupervisedChild {
  writeStoreConfig(places, config)
  return supervise(places, log, `${config.member}-store`, storeProcessCommand(storeConfig(places, config.member)))
}

/** For its next start; the servers of the bus also by SIGHUP. */
export function writeStoreConfig(places: Places, config: StoreProcessConfig): void {
  const chaos = readChaosFile(places)
  const faults = chaos && { ...chaos, chaos: { socket: chaosSocket(places, `${config.member}-store`) } }
  write(storeConfig(places, config.member), JSON.stringify({ machine: config.member, ...config, ...faults }))
}

/**
 * The bus and the store go before all else on the host: what they do is short, and a heartbeat that waits for a processor makes
 * an election. Without root they stand in line like others.
 */
function supervise(places: Places, log: Log, process: string, command: string[]): SupervisedChild {
  const first = isRoot() ? ['nice', '-n', NICENESS, ...command] : command
  const child = new SupervisedChild(process, first, { log: places.log(process), pid: places.pidFile(process) }, log)
  child.start()
  return child
}
