/** The guard as a process of its own, over child processes of this host; nothing of a kubelet runs. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { silentLog } from '@capstan/real'
import { bootMs, endTarget, FileGuard, ProcessRuntime } from './edge/index.js'
import type { ContainerSpec, SandboxSpec } from './runtime.js'

const dir = mkdtempSync(join(tmpdir(), 'capstan-guard-'))
const runtime = new ProcessRuntime({ directory: join(dir, 'p'), hostIp: '127.0.0.1', log: silentLog })
const files = new FileGuard(dir)
let guard: ChildProcess | undefined

function startGuard(): void {
  const module = fileURLToPath(new URL('./edge/guard.js', import.meta.url))
  const log = '{ warn() {} }'
  const program = `import(${JSON.stringify(module)}).then(({ runGuard }) => runGuard(${JSON.stringify(dir)}, ${log}))`
  guard = spawn(process.execPath, ['--input-type=module', '-e', program], { detached: true, stdio: 'ignore' })
}

async function until(what: string, holds: () => boolean | Promise<boolean>, withinMs = 15_000): Promise<void> {
  const end = performance.now() + withinMs
  while (!(await holds())) {
    if (performance.now() > end) assert.fail(`not within ${withinMs} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** A shell with a child of its own. */
async function startPod(uid: string): Promise<void> {
  const pod = { uid, namespace: 'default', name: uid }
  const sandbox = { pod, attempt: 0, hostname: uid, annotations: {}, logDirectory: join(dir, 'logs', uid) }
  const spec = {
    pod,
    name: 'c',
    attempt: 0,
    image: 'busybox',
    imageId: 'busybox',
    command: ['sh', '-c', 'sleep 600 & wait'],
    env: [],
    mounts: [],
    ports: [],
    logPath: 'c.log',
    resources: {},
    security: {},
    annotations: {},
  }
  const sandboxId = await runtime.startSandbox(sandbox as unknown as SandboxSpec)
  const made = await runtime.createContainer(
    sandboxId,
    spec as unknown as ContainerSpec,
    sandbox as unknown as SandboxSpec,
  )
  await runtime.startContainer(made)
}

const state = async (uid: string) => (await runtime.list(uid)).containers[0]?.state
let sequence = 0
function tell(pods: string[], deadlineMs: number): void {
  const targets = pods.map((podUid) => ({ podUid, kill: runtime.killTarget() }))
  files.tell({ formatVersion: 1, sequence: ++sequence, bootId: files.bootId, deadlineMs, targets })
}

before(startGuard)
after(async () => {
  guard?.kill('SIGKILL')
  await runtime.teardown()
  rmSync(dir, { recursive: true, force: true })
})

test('ends the pods that it was told of when the time is over, and no other; also after its own death', async () => {
  await startPod('mine')
  await startPod('other')
  tell(['mine'], bootMs() + 60_000)
  await until('the guard says that it knows', () => files.state()?.sequence === sequence)
  guard?.kill('SIGKILL')
  const deadlineMs = bootMs() + 800
  tell(['mine'], deadlineMs)
  startGuard()
  await until('it ended', async () => (await state('mine')) === 'exited')
  assert.ok(bootMs() >= deadlineMs, 'not before')
  assert.equal(await state('other'), 'running')
  // What comes up while the time is over goes too.
  await startPod('late')
  tell(['mine', 'late'], deadlineMs)
  await until('it ended', async () => (await state('late')) === 'exited')
  assert.equal(await state('other'), 'running')
})

test('a container whose start was not written down is found by its wrapper', async () => {
  await startPod('unwritten')
  const { containers } = await runtime.list('unwritten')
  rmSync(join(dir, 'p/containers', containers[0]?.id ?? '', 'process.json'))
  assert.equal(endTarget({ podUid: 'unwritten', kill: runtime.killTarget() }), 1)
  assert.equal(endTarget({ podUid: 'nobody', kill: runtime.killTarget() }), 0)
  assert.equal(endTarget({ podUid: 'nobody', kill: { kind: 'cgroup', path: '/capstan-there-is-none' } }), 0)
})
