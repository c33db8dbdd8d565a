import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { main } from '../main.js'
import { UserError } from '../console.js'
import { installSystemd } from './install.js'
import { unitFaults, unitText, unitWord } from './unit.js'

const scratch = () => mkdtempSync(join(tmpdir(), 'capstan-systemd-'))
const options = { name: 'm-0', data: '/var/lib/capstan', node: '/usr/bin/node', program: '/opt/capstan/capstan.js' }

test('words of a command mean themselves', () => {
  assert.equal(unitWord('/a/b'), '/a/b')
  assert.equal(unitWord('/a b/%n/$HOME/"x"'), '"/a b/%%n/$$HOME/\\"x\\""')
  assert.throws(() => unitWord('/a\nExecStartPre=/bin/evil'), RangeError)
})

test('what would not start is found', () => {
  const text = unitText({ ...options, role: 'master', data: '/srv/a b' })
  assert.deepEqual(
    unitFaults(text, () => true),
    [],
  )
  assert.deepEqual(
    unitFaults(text, (path) => path !== '/srv/a b'),
    ['ExecStart: /srv/a b does not exist'],
  )
  assert.match(unitFaults(unitText({ ...options, role: 'node', node: 'node' }), () => true).join(), /no absolute path/)
  assert.match(unitFaults(`${text}\nnonsense\n`, () => true).join(), /no setting: nonsense/)
})

test('a master is shut in; a node’s pods are not, and survive it', () => {
  const master = unitText({ ...options, role: 'master' })
  for (const line of [
    'ProtectSystem=strict',
    'NoNewPrivileges=yes',
    'ReadWritePaths=/var/lib/capstan',
    'Restart=always',
  ])
    assert.ok(master.includes(`\n${line}\n`), line)
  assert.match(master, /\nProtectHome=yes\n/)
  assert.match(unitText({ ...options, role: 'master', node: '/root/.nvm/node' }), /\nProtectHome=read-only\n/)
  const node = unitText({ ...options, role: 'node' })
  assert.match(node, /\nDelegate=yes\n/)
  assert.match(node, /\nKillMode=process\n/)
  assert.match(node, /--keep-pods\n/)
  assert.doesNotMatch(node, /\n(ProtectSystem|NoNewPrivileges|CapabilityBoundingSet|PrivateTmp)=/)
})

for (const role of ['master', 'node'] as const)
  test(`capstan install systemd writes a ${role}'s unit that systemd takes`, async () => {
    const root = scratch()
    const data = join(root, 'data with blank')
    try {
      await assert.rejects(installSystemd({ data, root, start: true }), UserError)
      mkdirSync(data)
      writeFileSync(join(data, 'machine.json'), JSON.stringify({ role, name: 'm-0' }))
      await main(['install', 'systemd', '--data', data, '--root', root, '--no-start'])
      assert.ok(!process.exitCode)
      const unit = join(root, `etc/systemd/system/capstan-${role}.service`)
      assert.match(readFileSync(unit, 'utf8'), /serve --data ".*data with blank"/)
      assert.match(readFileSync(join(root, 'etc/sysctl.d/90-capstan.conf'), 'utf8'), /ip_forward = 1/)
      assert.ok(existsSync(join(root, 'etc/modules-load.d/capstan.conf')))
      if (spawnSync('systemd-analyze', ['--version']).status !== 0) return
      const verified = spawnSync('systemd-analyze', ['verify', unit], { encoding: 'utf8' })
      const own = verified.stderr.split('\n').filter((line) => line.includes('capstan-'))
      assert.deepEqual(own, [])
      if (role === 'node') return
      const judged = spawnSync('systemd-analyze', ['security', '--offline=yes', '--no-pager', unit], {
        encoding: 'utf8',
      })
      const level = Number(/exposure level for .*: ([\d.]+)/.exec(judged.stdout)?.[1] ?? Number.NaN)
      assert.ok(level < 5, `exposure ${level}`)
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
  })
