import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { makeCa } from '@capstan/certs'
import fc from 'fast-check'
import { examine, textOf } from './doctor.js'
import {
  clockOffset,
  type Finding,
  forwardDrops,
  isOlder,
  judgeCertificates,
  judgeCgroups,
  judgeFree,
  judgeKernel,
  judgeMtu,
  judgeOffset,
  judgeOpenFiles,
  judgePorts,
  judgeProgram,
  judgeReached,
  judgeSecrets,
  judgeSwap,
  judgeSync,
  judgeSynchronised,
  versionIn,
} from './judge.js'
import { ancestry, listenersOn } from './probe.js'

const verdict = (finding: Finding | undefined) => finding?.verdict
const MIB = 1024 * 1024
const DAY = 86_400_000

test('clock', () => {
  assert.equal(verdict(judgeSynchronised(true)), 'ok')
  assert.equal(verdict(judgeSynchronised(false)), 'warning')
  assert.match(judgeSynchronised(undefined).text, /nothing here says/)
  // Whatever the two clocks and the way between them are like: who agrees is never blamed.
  fc.assert(
    fc.property(fc.nat(10_000), fc.nat(400), fc.nat(400), (startMs, toMs, backMs) => {
      const header = Math.floor((startMs + toMs) / 1000) * 1000
      const { offsetMs, errorMs } = clockOffset('m', header, startMs, startMs + toMs + backMs)
      assert.ok(Math.abs(offsetMs) <= errorMs + 0.001)
    }),
  )
  const at = (seconds: number) => verdict(judgeOffset(clockOffset('m', seconds * 1000, 0, 100)))
  assert.deepEqual([at(0), at(3), at(-3), at(120), at(-120)], ['ok', 'warning', 'warning', 'failed', 'failed'])
  assert.match(judgeOffset(clockOffset('m1', 5000, 0, 100)).text, /m1 is 5\.\d s ahead/)
})

test('disk', () => {
  const times = (slow: number) => [...Array.from({ length: 98 }, () => 1), slow, slow]
  assert.equal(verdict(judgeSync(times(2), 'master')), 'ok')
  assert.equal(verdict(judgeSync(times(40), 'master')), 'warning')
  assert.equal(verdict(judgeSync(times(400), 'master')), 'failed')
  assert.equal(verdict(judgeSync(times(400), 'node')), 'warning')
  const free = (mib: number, of = 20_000) =>
    verdict(judgeFree({ bytes: mib * MIB, ofBytes: of * MIB, directory: '/d' }))
  assert.deepEqual([free(10_000), free(1000), free(100), free(4000, 200_000)], ['ok', 'warning', 'failed', 'warning'])
})

test('ports and the other masters', () => {
  const free = { port: 1, use: 'API', holder: 'nobody' as const }
  const ours = { port: 2, use: 'bus', holder: 'this machine' as const }
  const others = { port: 3, use: 'bus', holder: { process: 'process 7: nginx' } }
  assert.deepEqual(judgePorts([free], false).map(verdict), ['ok'])
  assert.deepEqual(judgePorts([ours], true).map(verdict), ['ok'])
  assert.match(judgePorts([free, ours], true)[0]?.text ?? '', /runs, but nobody listens on 1 \(API\)/)
  assert.match(judgePorts([free, others], false)[0]?.text ?? '', /3 \(bus\) is held by process 7: nginx/)
  assert.deepEqual(judgeReached([{ what: 'a' }, { what: 'b', problem: 'ECONNREFUSED' }]).map(verdict), ['failed'])
})

test('kernel', () => {
  assert.equal(
    verdict(judgeCgroups({ mounted: true, unified: true, controllers: ['cpu', 'memory', 'pids', 'io'] })),
    'ok',
  )
  assert.equal(
    verdict(judgeCgroups({ mounted: true, unified: false, controllers: ['cpu', 'memory', 'pids'] })),
    'warning',
  )
  assert.match(judgeCgroups({ mounted: true, unified: true, controllers: ['cpu', 'pids'] }).text, /missing: memory/)
  assert.match(judgeCgroups({ mounted: false, unified: false, controllers: [] }).text, /no cgroup file system/)
  const remedy = 'modprobe'
  assert.deepEqual(
    judgeKernel([
      { name: 'a', works: true, remedy },
      { name: 'b', works: false, remedy },
      { name: 'c', works: undefined, remedy },
      { name: 'd', works: false, remedy, isSetLater: true },
    ]).map(({ verdict: v, text }) => `${v} ${text}`),
    ['ok a', 'failed b does not work', 'warning c: not tried', 'warning d is off'],
  )
  const ruleset = `table ip filter {
\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t}
\tchain INPUT {
\t\ttype filter hook input priority filter; policy drop;
\t}
}
table inet x {
\tchain f {
\t\ttype filter hook forward priority 0; policy accept;
\t}
}`
  assert.deepEqual(forwardDrops(ruleset), ['table ip filter, chain FORWARD'])
})

test('programs', () => {
  assert.deepEqual(versionIn('nats-server: v2.9.10'), [2, 9, 10])
  assert.deepEqual(versionIn('containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u2'), [1, 6, 20])
  assert.deepEqual(versionIn('ip utility, iproute2-6.1.0, libbpf 1.1.0'), [6, 1, 0])
  assert.equal(versionIn('no version'), undefined)
  assert.ok(isOlder([1, 5], [1, 6]) && isOlder([1, 6], [1, 6, 1]) && !isOlder([1, 10], [1, 9]) && !isOlder([2], [2, 0]))
  const program = { name: 'runc', least: '1.1', debianPackage: 'runc' }
  assert.equal(verdict(judgeProgram({ ...program, said: 'runc version 1.1.5+ds1' })), 'ok')
  assert.equal(verdict(judgeProgram({ ...program, said: 'runc version 1.0.9' })), 'failed')
  assert.match(judgeProgram({ ...program, said: undefined }).advice ?? '', /apt-get install runc/)
})

test('certificates, secrets, limits', () => {
  const life = (fromDays: number, untilDays: number) => ({
    file: 'x.crt',
    fromMs: fromDays * DAY,
    untilMs: untilDays * DAY,
  })
  const now = 1000 * DAY
  assert.deepEqual(judgeCertificates([life(900, 1100), life(999, 1365)], now).map(verdict), ['ok'])
  assert.match(judgeCertificates([life(900, 1100)], now)[0]?.text ?? '', /in 100 days/)
  assert.deepEqual(judgeCertificates([life(0, 1010), life(0, 999), life(1001, 2000)], now).map(verdict), [
    'warning',
    'failed',
    'failed',
  ])
  assert.deepEqual(judgeSecrets([{ file: 'a.key', mode: 0o100600 }]).map(verdict), ['ok'])
  assert.match(judgeSecrets([{ file: 'a.key', mode: 0o100640 }])[0]?.text ?? '', /mode 640/)
  assert.deepEqual([verdict(judgeSwap([], 'node')), verdict(judgeSwap(['/dev/sda2'], 'master'))], ['ok', 'warning'])
  const files = (soft: number, hard: number) => verdict(judgeOpenFiles({ soft, hard }))
  assert.deepEqual([files(65_536, 65_536), files(1024, 524_288), files(1024, 1024)], ['ok', 'warning', 'failed'])
  const mtu = (size: number, role: 'master' | 'node') => verdict(judgeMtu({ device: 'eth0', mtu: size }, 'a', role))
  assert.deepEqual(
    [mtu(1500, 'node'), mtu(1450, 'node'), mtu(1450, 'master'), mtu(1000, 'master')],
    ['ok', 'warning', 'ok', 'failed'],
  )
  assert.equal(verdict(judgeMtu(undefined, '10.0.0.1', 'node')), 'failed')
})

test('a real host with a directory in which something is wrong', async () => {
  const data = mkdtempSync(join(tmpdir(), 'capstan-doctor-'))
  const server = createServer()
  try {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
    const { port } = server.address() as { port: number }
    assert.ok(listenersOn(port).includes(process.pid))
    assert.ok(ancestry(process.pid).includes(process.ppid))
    const ca = await makeCa('test', { notBeforeMs: Date.now() - 60_000, notAfterMs: Date.now() + 100 * DAY })
    mkdirSync(join(data, 'pki'))
    writeFileSync(join(data, 'pki/ca.crt'), ca.cert)
    writeFileSync(join(data, 'pki/ca.key'), ca.key, { mode: 0o644 })
    const machine = { name: 'm0', role: 'master', address: '127.0.0.1', apiPort: port }
    writeFileSync(join(data, 'machine.json'), JSON.stringify(machine))
    writeFileSync(
      join(data, 'masters.json'),
      JSON.stringify([{ name: 'm1', address: '127.0.0.1', apiPort: 1, busPort: 1, routePort: 1 }]),
    )
    const findings = await examine({ data })
    const failures = findings.filter((one) => one.verdict === 'failed').map((one) => `${one.check}: ${one.text}`)
    assert.ok(
      failures.some((text) => text.startsWith(`ports: ${port} (API) is held by process ${process.pid}`)),
      failures.join(),
    )
    assert.ok(failures.some((text) => /permissions: .*ca\.key can be read by others/.test(text)))
    assert.ok(failures.some((text) => /reach: m1 \(bus, 127\.0\.0\.1:1\) is not reached: ECONNREFUSED/.test(text)))
    assert.match(findings.find((one) => one.check === 'disk sync')?.text ?? '', /half within/)
    assert.equal(verdict(findings.find((one) => one.check === 'certificates')), 'ok')
    assert.match(textOf(findings), /\d+ ok, \d+ warnings, \d+ failed\n$/)
    for (const finding of findings) assert.equal(finding.advice === undefined, finding.verdict === 'ok', finding.text)
  } finally {
    server.close()
    rmSync(data, { recursive: true, force: true })
  }
})
