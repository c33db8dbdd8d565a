import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { runsOn } from '../harness/targets/host-edge.js'
import { run, until } from './edge/host.js'
import { between, Fleet, fleetLack, HOST } from './index.js'
import { namesOf } from './plan.js'

const skip = fleetLack() ?? false
/** Beyond it a connection hangs rather than takes long. */
const HANGS_MS = 400

/** Opens connections; nobody listens there: a refusal is an answer. `ms`: how long the quickest of five took. */
const CONNECT = `const [host, limit] = process.argv.slice(1); let ms = Infinity
const end = (what) => { console.log(JSON.stringify({ what, ms })); process.exit() }
const go = (left) => { const t = performance.now(); require('net').connect({ host, port: 9 })
  .on('error', (e) => { ms = Math.min(ms, performance.now() - t); left > 1 ? go(left - 1) : end(e.code) }) }
go(5); setTimeout(() => ms === Infinity && end('hangs'), Number(limit))`

describe('a fleet', { skip }, () => {
  const directory = mkdtempSync(join(tmpdir(), 'fleet-'))
  let fleet: Fleet
  const answer = async (from: string, to: string) => {
    const ran = await fleet.machine(from).run(['node', '-e', CONNECT, to, String(HANGS_MS)])
    assert.equal(ran.code, 0, ran.stderr)
    return JSON.parse(ran.stdout) as { what: string; ms: number }
  }

  before(async () => {
    fleet = await Fleet.create({
      directory,
      machines: [{ name: 'one', diskBytes: 32 * 1024 * 1024 }, { name: 'two' }, { name: 'three', zone: 'b' }],
      zones: { delayMs: 20 },
    })
  })
  after(async () => {
    await fleet?.down()
    rmSync(directory, { recursive: true, force: true })
  })

  test('each machine has a name, an address, processes, files and cgroups of its own', async () => {
    const one = fleet.machine('one')
    const look =
      'hostname; ip -4 -o addr show eth0; echo mine > /etc/mine; echo s > /var/lib/capstan/s; cat /proc/self/cgroup'
    const ran = await one.run(look)
    assert.match(ran.stdout, /^one\n.*inet 10\.90\.\d+\.11\/24/)
    assert.doesNotMatch(ran.stdout, /capfleet/, 'a machine does not see the cgroups of its host')
    assert.equal(readFileSync(one.seen('/etc/mine'), 'utf8'), 'mine\n')
    assert.ok(!existsSync('/etc/mine'), "what a machine writes is not the host's")
    assert.ok(!existsSync(fleet.machine('two').seen('/var/lib/capstan/s')))
    assert.equal((await one.run('exit 7')).code, 7)
    assert.equal((await one.run('sleep 60', { timeoutMs: 200 })).code, 124)
    assert.equal((await one.run(['cat'], { input: 'told' })).stdout, 'told')
  })

  test("processes of a machine are known by its numbers and the host's, those of containers too", async () => {
    const two = fleet.machine('two')
    const log = join(directory, 'contained.log')
    const outer = await two.spawn('echo $$; exec unshare --pid --fork sh -c "echo $$; exec sleep 100"', { log })
    const own = () => readFileSync(log, 'utf8').trim().split('\n').map(Number)
    assert.ok(await until(() => own().length === 2 && two.pids().length === 2, 5000), two.pids().join())
    assert.ok(two.pids().includes(outer))
    assert.equal(two.hostPid(own()[0] as number), outer)
    assert.match(await two.kill(), /SIGKILL to 2 processes of two/)
    assert.deepEqual(two.pids(), [])
  })

  test('machines reach each other by name, as far away as their zones', async () => {
    const near = await answer('one', 'two')
    const far = await answer('one', 'three')
    assert.equal(near.what, 'ECONNREFUSED')
    assert.equal(far.what, 'ECONNREFUSED')
    assert.ok(far.ms >= 40, `there and back takes twice 20 ms, not ${far.ms}`)
    assert.ok(near.ms < far.ms, `${near.ms} ms within a zone, ${far.ms} between two`)
  })

  test('a cut in one direction lets nothing through, is proved, and is undone', async () => {
    const cut = await fleet.network.cut('one', 'two')
    assert.match(cut.proof, /dropped 1 of 1/)
    assert.equal((await answer('one', 'two')).what, 'hangs')
    // Answers go the cut way.
    assert.equal((await answer('two', 'one')).what, 'hangs')
    assert.equal((await answer('three', 'two')).what, 'ECONNREFUSED')
    assert.equal((await fleet.network.inForce()).filter((proof) => proof.inForce).length, 2)
    await cut.undo()
    await cut.undo()
    assert.equal((await answer('one', 'two')).what, 'ECONNREFUSED')
  })

  test('a connection that exists hangs too, and goes on after the cut', async () => {
    const echo = "require('net').createServer((s) => s.pipe(s)).listen(9000)"
    const talk = `const s = require('net').connect(9000, 'two'); let n = 0
      s.on('data', () => console.log(++n)); setInterval(() => s.write('x'), 20)`
    const log = join(directory, 'talk.log')
    await fleet.machine('two').spawn(['node', '-e', echo], { log: join(directory, 'echo.log') })
    const heard = () => (existsSync(log) ? readFileSync(log, 'utf8').split('\n').length - 1 : 0)
    const listens = async () => (await fleet.machine('two').run('ss -ltn | grep -q :9000')).code === 0
    assert.ok(await until(listens, 5000, 50))
    await fleet.machine('one').spawn(['node', '-e', talk], { log })
    assert.ok(await until(() => heard() > 2, 5000))
    const cut = await fleet.network.cutAll(between(['one'], ['two']))
    const atCut = heard()
    // Other traffic passes meanwhile; what is on its way when the cut comes may still arrive.
    await answer('one', 'two')
    assert.ok(heard() <= atCut + 3, 'nothing is heard over a cut')
    await cut.undo()
    const after = heard()
    assert.ok(await until(() => heard() > after + 5, 5000), 'the connection goes on')
    for (const name of ['one', 'two']) assert.match(await fleet.machine(name).kill(), /SIGKILL to 1 processes/)
  })

  test('loss, delay, doubling, disorder, damage, narrowness: each shows over the wire', async () => {
    const { network } = fleet
    assert.match((await network.loss('one', 'two', 0.5)).proof, /dropped [1-9]\d* of 16/)
    assert.match((await network.delay('two', 'one', 30)).proof, /held 30\.0 ms/)
    assert.match((await network.duplicate('two', 'one', 0.3)).proof, /[1-9]\d* doubled/)
    assert.match((await network.reorder('two', 'one', 0.3)).proof, /[1-9]\d* put out of order/)
    assert.match((await network.corrupt(HOST, 'one', 0.5)).proof, /[1-9]\d* damaged/)
    assert.match((await network.bandwidth('one', 'three', 20_000)).proof, /held/)
    assert.match(await network.heal(), /6 faults undone; only the distance between zones is left/)
    assert.equal((await network.inForce()).length, 1)
  })

  test('flapping begins with the cut and ends whole', async () => {
    const flapping = await fleet.network.flap(between(['one'], ['two']), 50, 50)
    const { network } = fleet
    assert.ok(await until(() => network.list.length === 1, 5000), 'whole by turns')
    assert.ok(await until(() => network.list.length === 2, 5000), 'and cut')
    assert.match(await flapping.undo(), /whole/)
    assert.equal(network.list.length, 1)
  })

  test('a paused machine does nothing until it goes on; some of it first if need be', async () => {
    const two = fleet.machine('two')
    const log = join(directory, 'count.log')
    const count = (name: string) => ['sh', '-c', `while :; do echo ${name}; sleep 0.01; done`]
    const first = await two.spawn(count('first'), { log })
    const other = await two.spawn(count('other'), { log })
    const said = (name: string) => readFileSync(log, 'utf8').split(`${name}\n`).length
    assert.ok(await until(() => said('first') > 1 && said('other') > 1, 5000))
    assert.match((await two.pause()).proof, /frozen/)
    const before = said('other')
    assert.equal((await answer('one', 'two')).what, 'ECONNREFUSED', 'its kernel answers')
    assert.equal(said('other'), before)
    // What waits for it is taken before anything else of it runs, as soon as it is thawed.
    assert.ok(runsOn(other))
    process.kill(other, 'SIGSTOP')
    assert.ok(!runsOn(other))
    let others = 0
    await two.resume({
      first: [first],
      ready: () => {
        others = said('other')
        return said('first') > before + 3
      },
    })
    assert.equal(others, before, 'the others waited')
    assert.ok(await until(() => runsOn(other), 5000))
    assert.ok(await until(() => said('other') > before, 5000))
    await two.kill()
    assert.deepEqual(two.pids(), [])
  })

  test('processor, memory and disk under pressure, each undone', async () => {
    const one = fleet.machine('one')
    const burn = await one.burnCpu(1)
    assert.match(burn.proof, /1 burners/)
    await burn.undo()
    for (const done of [await one.limitCpu(0.5), await one.squeezeMemory(256 * 1024 * 1024)]) {
      assert.match(done.proof, /50000|268435456/)
      assert.match(await done.undo(), /: (-1|max|9223372036854771712)/)
    }
    const full = await one.fillDisk()
    assert.notEqual((await one.run('dd if=/dev/zero of=/var/lib/capstan/more bs=64k count=1')).code, 0)
    await full.undo()
    assert.equal((await one.run('dd if=/dev/zero of=/var/lib/capstan/more bs=64k count=1')).code, 0)
    await assert.rejects(fleet.machine('two').fillDisk(), /has no disk of its own/)
  })

  test('a machine whose power was gone comes back with its disk and nothing else', async () => {
    const one = fleet.machine('one')
    await one.run(
      'echo kept > /var/lib/capstan/kept; mount -t tmpfs none /mnt; ip link add cni0 type bridge; nft add table ip mine',
    )
    await one.spawn('sleep 100', { log: join(directory, 'sleep.log') })
    await one.powerCycle()
    const ran = await one.run(
      'cat /var/lib/capstan/kept; ip link show cni0; nft list tables; grep " /mnt " /proc/mounts',
    )
    assert.equal(ran.stdout, 'kept\n')
    assert.deepEqual(one.pids(), [])
    assert.equal((await answer('three', 'one')).what, 'ECONNREFUSED')
    assert.ok((await answer('one', 'three')).ms >= 40, 'it is as far away as before')
  })

  test('another process may heal; a wire process that was killed is noticed, and begun anew', async () => {
    const { network } = fleet
    const [distance] = await network.inForce()
    assert.equal(distance?.inForce, true)
    await network.delay('one', 'two', 30)
    const other = Fleet.open(directory)
    assert.match(await other.network.heal(), /1 faults undone/)
    assert.match(await network.heal(), /0 faults undone/)
    assert.ok((await answer('one', 'two')).ms < 30)
    await run(['pkill', '-9', '-f', `wire-main.js .*/${fleet.record.slot}.sock$`])
    assert.ok(await until(async () => (await network.inForce())[0]?.inForce === false, 5000))
    const delay = await network.delay('one', 'two', 10)
    assert.equal((await network.inForce())[0]?.inForce, true)
    await delay.undo()
    assert.ok((await answer('one', 'three')).ms >= 40)
  })

  test('what cannot be had is said', async () => {
    assert.throws(() => fleet.machine('four'), /there is no machine four; machines: one, two, three/)
    await assert.rejects(fleet.network.cut('one', 'four'), /there is no machine four/)
    await assert.rejects(fleet.network.loss('one', 'two', 30), /between 0 and 1/)
    await assert.rejects(Fleet.create({ directory, machines: [{ name: 'one' }] }), /has a fleet already/)
    assert.ok(fleet.network.cannot.some(({ what }) => /wall clock/.test(what)))
  })
})

test('a fleet whose builder was killed is removed without trace; another beside it stands', { skip }, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'fleet-'))
  const other = await Fleet.create({ directory: join(directory, 'other'), machines: [{ name: 'one' }] })
  const script = `import { Fleet } from ${JSON.stringify(join(import.meta.dirname, 'index.js'))}
    const fleet = await Fleet.create({ directory: process.argv[1], machines: [{ name: 'one', diskBytes: 2 ** 24, clockOffsetMs: 5e6 }, { name: 'two', zone: 'b' }], zones: { delayMs: 1 } })
    await fleet.machine('one').spawn('mount -t tmpfs none /mnt; sleep 1000', { log: '/dev/null' })
    await fleet.machine('two').pause()
    console.log(fleet.record.slot, (await fleet.machine('one').run('cut -d. -f1 /proc/uptime')).stdout); setInterval(() => {}, 1000)`
  const builder = spawn(process.execPath, ['--input-type=module', '-e', script, join(directory, 'mine')])
  let said = ''
  builder.stdout.on('data', (text) => {
    said += text
  })
  builder.stderr.on('data', (text) => process.stderr.write(text))
  try {
    assert.ok(await until(() => /\d+ \d+/.test(said), 15_000), 'it stands')
    const [slot = 0, uptime = 0] = said.split(' ').map(Number)
    builder.kill('SIGKILL')
    assert.notEqual(slot, other.record.slot)
    assert.ok(uptime > Number(readFileSync('/proc/uptime', 'utf8').split('.')[0]) + 4900, 'its clocks are ahead')
    const names = namesOf(slot)
    assert.equal((await run(['ip', 'link', 'show', names.hostLink])).code, 0)
    // With the record gone too, only the claim tells.
    rmSync(join(directory, 'mine/fleet.json'))
    await assert.rejects(Fleet.create({ directory: join(directory, 'mine'), machines: [{ name: 'one' }] }), /already/)
    await Fleet.clear(join(directory, 'mine'))
    await Fleet.clear(join(directory, 'mine'))
    await Fleet.clear(join(directory, 'never-there'))
    assert.notEqual((await run(['ip', 'link', 'show', names.hostLink])).code, 0)
    assert.equal((await run(['losetup', '-a'])).stdout.includes(directory), false)
    const cgroups = readdirSync('/sys/fs/cgroup', { recursive: false }).map(String)
    for (const name of cgroups) assert.ok(!existsSync(join('/sys/fs/cgroup', name, names.cgroup)), name)
    assert.equal((await run(['pgrep', '-f', `fleet.*${directory}/mine`])).stdout, '')
    assert.ok(!existsSync(join('/run/capstan-fleet', String(slot))))
    assert.equal((await other.machine('one').run('hostname')).stdout, 'one\n')
  } finally {
    builder.kill('SIGKILL')
    await Fleet.clear(join(directory, 'mine'))
    await other.down()
    rmSync(directory, { recursive: true, force: true })
  }
})
