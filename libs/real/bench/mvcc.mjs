// What the state does a second, on lmdb or in memory. usage: node libs/real/bench/mvcc.mjs [--engine lmdb|memory] [--keys 1000000] [--load N]
// Prints puts, gets, ranges, the longest stall of the event loop, and what a restart over --load keys of 1 KiB takes.
import { fork } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { MemoryStateEngine, Mvcc } from '@capstan/mvcc'
import { LmdbStateEngine } from '@capstan/real'

const { values: args } = parseArgs({
  options: {
    engine: { type: 'string', default: 'lmdb' },
    keys: { type: 'string', default: '100000' },
    puts: { type: 'string', default: '200000' },
    load: { type: 'string', default: '0' },
    dir: { type: 'string', default: tmpdir() },
    child: { type: 'string' },
  },
})
const UNSAVED_BYTES_MAX = 32 * 1024 * 1024
const open = (dir) => new Mvcc(args.engine === 'lmdb' ? new LmdbStateEngine(dir) : new MemoryStateEngine())
const mib = (bytes) => `${Math.round(bytes / 1048576)} MiB`
const say = (what, text) => console.log(`${what.padEnd(44)} ${text}`)
const perSecond = (count, ms) => `${Math.round((count / ms) * 1000).toLocaleString('en')} a second`
const keyOf = (n) => Buffer.from(`/registry/bench/${String((n * 2654435761) % 4294967296).padStart(16, '0')}`)
const turn = () => new Promise((resolve) => setImmediate(resolve))

if (args.child) {
  const started = performance.now()
  const mvcc = open(args.child)
  const ms = performance.now() - started
  const first = mvcc.range({ key: keyOf(1) }).kvs.length
  process.send({
    ms: Math.round(performance.now() - started),
    openMs: Math.round(ms),
    first,
    rss: process.memoryUsage().rss,
  })
  // As a server at work would: every key read once.
  for (let n = 0; n < 200_000; n++) mvcc.range({ key: keyOf(n) })
  process.send({ rss: process.memoryUsage().rss, heap: process.memoryUsage().heapUsed })
  process.disconnect()
  process.exit(0)
}

const dir = mkdtempSync(join(args.dir, 'capstan-bench-'))
let stallMs = 0
let lastMs = performance.now()
const watch = setInterval(() => {
  const now = performance.now()
  stallMs = Math.max(stallMs, now - lastMs - 2)
  lastMs = now
}, 2)
const resetStall = () => {
  stallMs = 0
  lastMs = performance.now()
}

const mvcc = open(dir)
let index = 0
let checkpoint
let checkpoints = 0
async function puts(count, batchSize, valueBytes, keys) {
  let busy = 0
  const started = performance.now()
  const cpu = process.cpuUsage()
  for (let at = 0; at < count; ) {
    const entries = []
    for (let i = 0; i < batchSize; i++, at++) {
      const value = Buffer.alloc(valueBytes, at)
      const op = { type: 'put', key: keyOf(at % keys), value }
      entries.push({ index: ++index, command: { type: 'txn', txn: { compare: [], success: [op], failure: [] } } })
    }
    const before = performance.now()
    mvcc.applyBatch(entries, [['raft', Buffer.from('xxxxxxxx')]])
    busy += performance.now() - before
    if (mvcc.engine.unsavedBytes > UNSAVED_BYTES_MAX && !checkpoint) {
      checkpoints++
      checkpoint = mvcc.engine.checkpoint().finally(() => (checkpoint = undefined))
    }
    if (mvcc.engine.unsavedBytes > 4 * UNSAVED_BYTES_MAX) await checkpoint
    await turn()
  }
  const { user, system } = process.cpuUsage(cpu)
  return { busy, whole: performance.now() - started, cpuUs: (user + system) / count }
}

const keys = Number(args.keys)
for (const batch of [50, 200]) {
  resetStall()
  const { busy, whole, cpuUs } = await puts(Number(args.puts), batch, 256, keys)
  await checkpoint
  say(
    `puts of 256 bytes, batches of ${batch}`,
    `${perSecond(Number(args.puts), busy)} applied, ${perSecond(Number(args.puts), whole)} with checkpoints; ${cpuUs.toFixed(1)} us of all threads' CPU each; longest stall ${Math.round(stallMs)} ms`,
  )
}
await mvcc.engine.checkpoint()
let started = performance.now()
let cpu = process.cpuUsage()
const cpuUs = (count) =>
  `${((process.cpuUsage(cpu).user + process.cpuUsage(cpu).system) / count).toFixed(1)} us of CPU each`
for (let n = 0; n < 200_000; n++) mvcc.range({ key: keyOf((n * 7919) % keys) })
say('gets', `${perSecond(200_000, performance.now() - started)}; ${cpuUs(200_000)}`)
cpu = process.cpuUsage()
started = performance.now()
let read = 0
for (let n = 0; n < 200; n++)
  read += mvcc.range({ key: keyOf((n * 7919) % keys), rangeEnd: Buffer.from('/registry/bench0'), limit: 500 }).kvs
    .length
say(
  `ranges with limit 500 (of up to ${keys} keys)`,
  `${perSecond(200, performance.now() - started)}, ${perSecond(read, performance.now() - started)} keys; ${cpuUs(read)} key`,
)
started = performance.now()
const all = mvcc.range({ key: Buffer.from('/registry/bench/'), rangeEnd: Buffer.from('/registry/bench0') }).kvs.length
say(`one range of ${all} keys`, `${Math.round(performance.now() - started)} ms`)
started = performance.now()
mvcc.applyBatch([{ index: ++index, command: { type: 'compact', revision: mvcc.revision } }])
let slices = 0
resetStall()
while (mvcc.sweep(500)) {
  slices++
  await turn()
}
say(
  `compaction swept in ${slices} slices`,
  `${Math.round(performance.now() - started)} ms, longest stall ${Math.round(stallMs)} ms`,
)
resetStall()
const unsaved = mvcc.engine.unsavedBytes
started = performance.now()
await mvcc.engine.checkpoint()
say(
  `checkpoint of ${mib(unsaved)}`,
  `${Math.round(performance.now() - started)} ms, longest stall ${Math.round(stallMs)} ms`,
)
say('memory', `rss ${mib(process.memoryUsage().rss)}, heap ${mib(process.memoryUsage().heapUsed)}`)

const load = Number(args.load)
if (load > 0 && args.engine === 'lmdb') {
  resetStall()
  const { whole } = await puts(load, 200, 1024, load)
  await checkpoint
  await mvcc.engine.checkpoint()
  say(
    `load of ${load} keys of 1 KiB`,
    `${perSecond(load, whole)}; longest stall ${Math.round(stallMs)} ms; rss ${mib(process.memoryUsage().rss)}`,
  )
  await mvcc.engine.close()
  const child = fork(process.argv[1], ['--child', dir], { stdio: 'inherit' })
  const words = []
  child.on('message', (word) => words.push(word))
  await new Promise((resolve) => child.once('exit', resolve))
  say('restart: open and first read', `${words[0].ms} ms; rss ${mib(words[0].rss)}`)
  say('… and after 200,000 reads', `rss ${mib(words[1].rss)}, heap ${mib(words[1].heap)}`)
} else await mvcc.engine.close()
clearInterval(watch)
rmSync(dir, { recursive: true })
