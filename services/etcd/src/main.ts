/**
 * The etcd face as a process of its own: `node main.js CONFIG.json`. Prints one line `ready PORT` on stdout when it listens,
 * ends on SIGTERM and SIGINT.
 */
import { readFileSync } from 'node:fs'
import { grants, identityToken, Subjects } from '@capstan/protocol'
import { MemoryDisk, NatsBus, RealClock, RealRandom, realLog } from '@capstan/real'
import { openEtcdDoor } from './edge/index.js'
import { type EtcdFaceOptions, startEtcdFace } from './index.js'

/** The JSON file given on the command line. */
interface EtcdConfig extends EtcdFaceOptions {
  listen: { hosts: string[]; port: number }
  /** Paths of PEM files; `"insecure"` (loopback only) for a benchmark. */
  tls: { ca: string; cert: string; key: string } | 'insecure'
  bus: {
    /** `host:port`, the preferred one first. */
    servers: string[]
    /** Paths. */
    credentials: string
    ca?: string
  }
  logLevel?: string
}

const path = process.argv[2]
if (!path) {
  console.error('usage: main.js CONFIG.json')
  process.exit(2)
}
const config = JSON.parse(readFileSync(path, 'utf8')) as EtcdConfig
const log = realLog({ name: `etcd/${config.member}`, level: config.logLevel ?? 'info', fd: 2 })
const { listen, tls, bus: busConfig, logLevel: _, ...options } = config
const identity = { component: 'etcd', name: config.member } as const
const token = identityToken(identity)
const bus = await NatsBus.connect({
  servers: busConfig.servers,
  identity: token,
  inbox: new Subjects(config.cluster).inbox(token, `${process.pid}-${Date.now()}`),
  grants: grants(config.cluster, identity),
  credentials: readFileSync(busConfig.credentials),
  ...(busConfig.ca ? { ca: readFileSync(busConfig.ca, 'utf8') } : {}),
  log,
})
const world = { clock: new RealClock(), random: new RealRandom(), bus, disk: new MemoryDisk(), log }
const pem = (file: string) => readFileSync(file, 'utf8')
const door = await openEtcdDoor({
  ...listen,
  tls: tls === 'insecure' ? tls : { ca: pem(tls.ca), cert: pem(tls.cert), key: pem(tls.key) },
  log,
  open: () => Promise.resolve(startEtcdFace(world, options)),
}).catch(async (error: Error) => {
  log.error({ err: error }, error.message)
  await bus.close()
  process.exit(1)
})
process.stdout.write(`ready ${door.port}\n`)

let ending = false
for (const signal of ['SIGTERM', 'SIGINT'] as const)
  process.on(signal, () => {
    if (ending) return
    ending = true
    log.info({ signal }, 'stopping')
    void door
      .close()
      .then(() => bus.close())
      .then(() => process.exit(0))
  })
