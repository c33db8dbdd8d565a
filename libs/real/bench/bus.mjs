// node libs/real/bench/bus.mjs [SECONDS]: round trips a second of both buses, durable appends a second of both disks.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pbkdf2 } from 'node:crypto'
import { busServerConfig, makeBusAuthority, makeBusUser } from '@capstan/certs'
import { MemoryBroker, NatsBus, RealDisk, silentLog, ThreadedDisk } from '@capstan/real'
import { NatsServers, noNatsServer } from '@capstan/real/testing'

const seconds = Number(process.argv[2] ?? 2)
const grants = { publish: ['>'], subscribe: ['>'] }
const round = (n) => Math.round(n).toLocaleString('en')

/** `workers` loops of `once` for `seconds`; how many a second, and the middle and 99th percentile of their times in ms. */
async function measure(workers, once) {
  const times = []
  const end = performance.now() + seconds * 1000
  const started = performance.now()
  await Promise.all(
    Array.from({ length: workers }, async () => {
      while (performance.now() < end) {
        const at = performance.now()
        await once()
        times.push(performance.now() - at)
      }
    }),
  )
  const rate = times.length / ((performance.now() - started) / 1000)
  times.sort((a, b) => a - b)
  return { rate, p50: times[times.length >> 1], p99: times[Math.floor(times.length * 0.99)], worst: times.at(-1) }
}

const show = (what, { rate, p50, p99, worst }) =>
  console.log(
    `${what.padEnd(44)} ${round(rate).padStart(9)}/s   p50 ${p50.toFixed(3)}  p99 ${p99.toFixed(3)}  worst ${worst.toFixed(1)} ms`,
  )

async function buses(name, connect) {
  const [a, b] = [await connect('a'), await connect('b')]
  b.subscribe('to.b', (message) => b.publish(message.replyTo, message.payload))
  for (const [workers, bytes] of [
    [1, 200],
    [64, 200],
    [64, 4096],
  ]) {
    const payload = new Uint8Array(bytes)
    const once = () => a.request('to.b', payload, { timeoutMs: 10_000 })
    // The subscription may not have come round yet.
    while (
      !(await once().then(
        () => true,
        () => false,
      ))
    );
    show(`${name}: round trips, ${workers} in flight, ${bytes} B`, await measure(workers, once))
  }
  await a.close()
  await b.close()
}

async function disks(name, make, disturb) {
  const dir = mkdtempSync(join(tmpdir(), 'capstan-bench-'))
  const disk = make(dir)
  for (const workers of [1, 64]) {
    const segment = 16 * 1024 * 1024
    const file = await disk.open(`log${workers}`, { preallocateBytes: segment })
    const stop = disturb?.()
    // As the log does: one sync in flight, which all who wait share.
    let [offset, waiting, busy] = [0, [], false]
    const work = async () => {
      busy = true
      while (waiting.length > 0) {
        const group = waiting
        waiting = []
        const bytes = new Uint8Array(256 * group.length)
        if (offset + bytes.length > segment) offset = 0
        await Promise.all([file.write(offset, bytes), file.sync()])
        offset += bytes.length
        for (const resolve of group) resolve()
      }
      busy = false
    }
    const once = () =>
      new Promise((resolve) => {
        waiting.push(resolve)
        if (!busy) void work()
      })
    show(`${name}: durable appends, ${workers} waiting, 256 B`, await measure(workers, once))
    await stop?.()
    await file.close()
  }
  await disk.close?.()
  rmSync(dir, { recursive: true })
}

/** Keeps libuv's pool full with work of some 20 ms, as checkpoints of the state and many look-ups do. */
function fullPool() {
  let on = true
  const loops = Array.from({ length: 8 }, async () => {
    while (on) await new Promise((resolve) => pbkdf2('p', 's', 20_000, 32, 'sha256', resolve))
  })
  return async () => {
    on = false
    await Promise.all(loops)
  }
}

const broker = new MemoryBroker()
await buses('in process', async (identity) => broker.connect({ identity, inbox: `inbox.${identity}`, grants }))
if (noNatsServer) console.log(`NATS: ${noNatsServer}`)
else {
  const authority = await makeBusAuthority()
  const servers = await NatsServers.start(1, (all) =>
    busServerConfig(authority, {
      name: 'n0',
      cluster: 'bench',
      listen: { host: '127.0.0.1', port: all.ports[0] },
      route: { host: '127.0.0.1', port: all.routePorts[0] },
      peers: [],
      routePassword: 'x',
      directory: `${all.dir}/jwt`,
    }),
  )
  await buses('NATS', async (identity) => {
    const { credentials } = await makeBusUser(authority, identity, grants)
    return NatsBus.connect({
      servers: servers.urls(),
      identity,
      inbox: `inbox.${identity}`,
      grants,
      credentials,
      log: silentLog,
    })
  })
  await servers.end()
}
await disks('RealDisk', (dir) => new RealDisk(dir))
await disks('ThreadedDisk', (dir) => new ThreadedDisk(dir))
await disks('RealDisk, full pool', (dir) => new RealDisk(dir), fullPool)
await disks('ThreadedDisk, full pool', (dir) => new ThreadedDisk(dir), fullPool)
