/**
 * `docs/deploy-on-vms.md`, done as it says, on six machines of a fleet; then promise A2: what a node's credentials must not open.
 * `CAPSTAN_FLEET=1`: the whole page, some three minutes; `CAPSTAN_FLEET=short`: until where the page marks it.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { Fleet, fleetLack, INSTALLED } from '@capstan/chaos/fleet'
import { ROOT } from './cluster-under-test.js'
import { type Attempt, attemptsOf, attemptsWithCertificates } from './fleet-attempts.js'
import { PageReader, pageSteps } from './page-steps.js'

const WHOLE = process.env['CAPSTAN_FLEET'] === '1'
const SHORT_END = 'the short test ends here'
/** For a host that does much else; with a processor to be had no step takes ten seconds. */
const STEP_MS = 300_000
const MASTERS = ['master-0', 'master-1', 'master-2']
const NODES = ['node-0', 'node-1', 'node-2']
/** As the page writes them. */
const WRITTEN = new Map([
  ...MASTERS.map((name, i) => [name, `10.0.0.${11 + i}`] as const),
  ...NODES.map((name, i) => [name, `10.0.0.${21 + i}`] as const),
])
const NEEDED = ['nats-server', 'containerd', 'runc', 'kubectl', 'curl']

const lacking = NEEDED.filter((program) => spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0)
const skip =
  process.env['CAPSTAN_FLEET'] === undefined
    ? 'takes minutes: set CAPSTAN_FLEET=short, or =1 for the whole page'
    : (fleetLack() ?? (lacking.length > 0 ? `${lacking.join(', ')} missing` : false))

describe('the page on deployment', { skip }, () => {
  const directory = mkdtempSync(join(tmpdir(), 'fleet-e2e-'))
  let fleet: Fleet
  const run = async (machine: string, script: string, timeoutMs = STEP_MS) =>
    fleet.machine(machine).run(script, { timeoutMs })
  const must = async (machine: string, script: string) => {
    const ran = await run(machine, script)
    assert.equal(ran.code, 0, `${machine}: ${script}\n${ran.stdout}${ran.stderr}`)
    return ran.stdout
  }
  const kubectl = async (command: string) =>
    must('master-1', `kubectl --kubeconfig /var/lib/capstan/admin.conf ${command}`)

  // Machines of a fleet have no way to Debian: the images that a node would make of its packages are put there.
  const giveImages = (node: string) =>
    cpSync(join(ROOT, 'build/images'), join(fleet.machine(node).seen('/var/lib/capstan'), 'images'), {
      recursive: true,
      filter: (path) => !path.endsWith('packages'),
    })

  before(async () => {
    const images = (await import(pathToFileURL(join(ROOT, 'scripts/build-images.mjs')).href)) as {
      buildImages(): unknown
    }
    images.buildImages()
    fleet = await Fleet.create({
      directory,
      machines: [...MASTERS, ...NODES].map((name) => ({ name, mounts: { [INSTALLED]: ROOT } })),
    })
    for (const node of NODES) giveImages(node)
  })
  after(async () => {
    await fleet?.down()
    rmSync(directory, { recursive: true, force: true })
  })

  test('is what one does', async (t) => {
    const reader = new PageReader(
      new Map([
        ...[...WRITTEN].map(([name, written]) => [written, fleet.machine(name).address] as const),
        ['10.0.0.0/24', `${fleet.hostAddress}/24`],
      ]),
    )
    const page = readFileSync(join(ROOT, 'docs/deploy-on-vms.md'), 'utf8')
    for (const step of pageSteps(page)) {
      const begun = performance.now()
      if (step.kind === 'mark' && step.text === SHORT_END && !WHOLE) break
      if (step.kind === 'lost') await fleet.machine(step.machine).kill()
      else if (step.kind === 'new') {
        await fleet.machine(step.machine).wipe()
        if (NODES.includes(step.machine)) giveImages(step.machine)
      } else if (step.kind === 'run') {
        const script = `set -e\n${reader.fill(step.script)}`
        const all = await Promise.all(step.on.map(async (name) => ({ name, ...(await run(name, script)) })))
        for (const { name, code, stdout, stderr } of all) {
          assert.equal(code, 0, `line ${step.line}, on ${name}:\n${script}\n${stdout}${stderr}`)
          reader.see(stdout)
        }
      }
      t.diagnostic(`line ${step.line}: ${((performance.now() - begun) / 1000).toFixed(1)} s`)
    }
  })

  test('pods on all nodes, reached from every node by the Service and by themselves', async () => {
    const pods = JSON.parse(await kubectl('get pods -o json')) as {
      items: { spec: { nodeName: string }; status: { podIP: string }; metadata: { deletionTimestamp?: string } }[]
    }
    const alive = pods.items.filter((pod) => pod.metadata.deletionTimestamp === undefined)
    const nodes = new Set(alive.map((pod) => pod.spec.nodeName))
    assert.equal(nodes.size, WHOLE ? 2 : 3, [...nodes].join())
    const service = (await kubectl('get service nginx -o jsonpath={.spec.clusterIP}')).trim()
    const hosts = [service, service, service, ...alive.map((pod) => pod.status.podIP)]
    for (const node of nodes)
      await must(node, hosts.map((host) => `curl -fsS --max-time 5 -o /dev/null http://${host}/`).join(' && '))
  })

  describe('with the credentials of a node (A2)', () => {
    let attempts: Attempt[]
    before(async () => {
      attempts = await attemptsOf(fleet, 'node-1', 'node-2')
    })
    for (const what of [
      'reading Secrets',
      'changing another Node',
      'speaking as another node to an API server',
      'a beat in the name of another node',
      'hearing what is for another node',
      "hearing another node's answers",
      'hearing all answers',
      'hearing everything',
      'ordering another node about',
      'speaking raft',
      'asking the store',
    ])
      test(`${what} is refused`, () => {
        const attempt = attempts.find((one) => one.what === what)
        assert.ok(attempt, `${what} was not tried: ${JSON.stringify(attempts)}`)
        assert.ok(attempt.refused, `${what}: ${attempt.told}`)
      })
    test('what it may is not refused, by the same way', () => {
      assert.ok(attempts.some((one) => one.what === 'reading its own Node' && !one.refused))
    })
    test('the masters have logged it', async () => {
      const logs = (
        await Promise.all(
          MASTERS.map((name) => must(name, 'cat /var/lib/capstan/logs/*nats.log /var/lib/capstan/logs/*.log')),
        )
      ).join('\n')
      assert.match(logs, /Publish Violation.*store\.raft/)
      assert.match(logs, /Subscription Violation.*node-2/)
    })
  })

  test('a used-up, an expired and a wrong token, and a wrong hash, are refused with a clear word', async (t) => {
    const node = fleet.machine('node-1')
    const create = async (flags: string) => (await must('master-0', `capstan token create --role node ${flags}`)).trim()
    const joinAs = (
      command: string,
      name: string,
      change: (text: string) => string = (text) => text,
      more = '--runtime hollow',
    ) =>
      node.run(
        change(command.replace('ADDRESS-OF-THE-NEW-MACHINE', node.address)) +
          ` --name ${name} --data /root/${name} --no-start ${more}`,
        { timeoutMs: STEP_MS },
      )
    const said = async (ran: Promise<{ code: number; stderr: string }>) => {
      const { code, stderr } = await ran
      assert.equal(code, 1, stderr)
      return stderr.trim()
    }
    const [once, brief, forNode] = await Promise.all([create('--uses 1'), create('--ttl 1s'), create('--ttl 5m')])
    assert.equal((await joinAs(once, 'guest-0')).code, 0)
    await new Promise((resolve) => setTimeout(resolve, 1000))
    const asMaster = (text: string) => text.replace('capstan node join', 'capstan master join')
    const words = await Promise.all([
      said(joinAs(once, 'guest-1')),
      said(joinAs(brief, 'guest-2')),
      said(joinAs(forNode, 'guest-3', (text) => text.replace(/sha256:.{8}/, 'sha256:00000000'))),
      // Made for nodes: no master joins by it.
      said(joinAs(forNode, 'guest-4', asMaster, '')),
    ])
    t.diagnostic(words.join('\n'))
    assert.match(words[0], /used/)
    assert.match(words[1], /expired/)
    assert.match(words[2], /another cluster/)
    assert.match(words[3], /node/)
  })

  test('foreign and expired certificates, and that of a node, open no door that is not theirs', async () => {
    // The page's firewall keeps the etcd face to the machines themselves: here the door itself is tried.
    if (WHOLE) await must('master-0', 'nft insert rule inet firewall input tcp dport 2379 accept')
    const attempts = await attemptsWithCertificates(fleet)
    assert.equal(attempts.length, 11)
    for (const { what, told, refused } of attempts) {
      assert.notEqual(told, 'no answer', what)
      assert.equal(refused, !what.startsWith('good'), `${what}: ${told}`)
    }
  })
})
