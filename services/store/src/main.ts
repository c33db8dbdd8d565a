/**
 * The store as a process of its own: `node main.js CONFIG.json`. Joins NATS with one connection for raft and one for all
 * else, keeps its state in lmdb, ends cleanly on SIGTERM and SIGINT; on SIGHUP it reads the servers of the bus again. Prints one
 * line `ready` on stdout when it serves.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Clock, Disk } from '@capstan/actor'
import { grants, identityToken, Subjects } from '@capstan/protocol'
import { LmdbStateEngine, NatsBus, RealClock, RealRandom, realLog, ThreadedDisk } from '@capstan/real'
import { BusesBeside } from './buses-beside.js'
import { type StoreOptions, startStore, SUPPORTED_VERSIONS } from './index.js'

/** The JSON file given on the command line. */
interface StoreConfig extends Omit<StoreOptions, 'openEngine'> {
  /** Directory of this member's log and state. */
  dataDir: string
  bus: {
    /** `host:port`, the preferred one first. */
    servers: string[]
    /** Paths. */
    credentials: string
    ca?: string
    clientCertificate?: { cert: string; key: string }
    /** By member, where the server beside it listens: raft speaks to that one, if it can, and not through two servers. */
    beside?: Record<string, string>
  }
  logLevel?: string
  /** Its clock and disk misbehave on demand, by this socket. */
  chaos?: { socket: string }
}

const path = process.argv[2]
if (!path) {
  console.error('usage: main.js CONFIG.json')
  process.exit(2)
}
const config = JSON.parse(readFileSync(path, 'utf8')) as StoreConfig
if (config.bugs !== undefined && config.chaos === undefined) {
  console.error(`${path}: planted bugs are for the tests of the checkers, never for a store that runs`)
  process.exit(2)
}
// A test may have this program pass for the next one: see versions.ts.
const versionMax = Number(process.env['CAPSTAN_TEST_CLUSTER_VERSION_MAX'] ?? SUPPORTED_VERSIONS.max)
const log = realLog({ name: `store/${config.member}`, level: config.logLevel ?? 'info', fd: 2 })
const { dataDir, bus: busConfig, logLevel: _, chaos: chaosConfig, ...options } = config
const subjects = new Subjects(config.cluster)
const identity = { component: 'store', name: config.member } as const
const token = identityToken(identity)

const incarnation = `${process.pid}-${Date.now()}`
const connect = (instance: string, servers = busConfig.servers, signal?: AbortSignal) =>
  NatsBus.connect(
    {
      servers,
      identity: token,
      inbox: subjects.inbox(token, `${instance}-${incarnation}`),
      grants: grants(config.cluster, identity),
      credentials: readFileSync(busConfig.credentials),
      ...(busConfig.ca ? { ca: readFileSync(busConfig.ca, 'utf8') } : {}),
      ...(busConfig.clientCertificate ? { clientCertificate: busConfig.clientCertificate } : {}),
      log,
    },
    signal,
  )

const [bus, raftBus] = await Promise.all([connect('bulk'), connect('raft')])
const beside = new BusesBeside(config.member, (member, server, signal) => connect(`raft-${member}`, [server], signal))
beside.follow(busConfig.beside ?? {})
const closeBuses = () => Promise.all([bus.close(), raftBus.close(), beside.close()])
const { clock, disk } = await clockAndDisk()
const store = await startStore(
  { clock, random: new RealRandom(), bus, raftBus, busBeside: (member) => beside.get(member), disk, log },
  {
    ...options,
    versions: { ...SUPPORTED_VERSIONS, max: versionMax },
    openEngine: () => new LmdbStateEngine(join(dataDir, 'state')),
  },
).catch(async (error: unknown) => {
  log.error({ err: error }, 'the store cannot start')
  await closeBuses()
  process.exit(1)
})
process.stdout.write('ready\n')

// Servers of the bus come and go while a member runs.
process.on('SIGHUP', () => {
  try {
    const { bus: renewed } = JSON.parse(readFileSync(path, 'utf8')) as StoreConfig
    for (const connection of [bus, raftBus]) connection.setServers(renewed.servers)
    beside.follow(renewed.beside ?? {})
  } catch (error) {
    log.error({ err: error }, 'the configuration cannot be read again; it stays as it was')
  }
})

let stopping = false
for (const signal of ['SIGTERM', 'SIGINT'] as const)
  process.on(signal, () => {
    if (stopping) return
    stopping = true
    log.info({ signal }, 'stopping')
    void store.stop()
  })

const failure = await store.ended
await closeBuses()
if (failure !== undefined) log.error({ err: failure }, 'the store gave up')
process.exit(failure === undefined ? 0 : 1)

async function clockAndDisk(): Promise<{ clock: Clock; disk: Disk }> {
  const real = { clock: new RealClock(), disk: new ThreadedDisk(dataDir) }
  if (!chaosConfig) return real
  const { Chaos } = await import('@capstan/real/chaos')
  const chaos = new Chaos(real.clock, log)
  const faulty = { clock: chaos.clock(), disk: chaos.disk(real.disk) }
  await chaos.listen(chaosConfig.socket)
  return faulty
}
