import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { AdminClient } from './admin-client.js'
import { type ChaosFile, writeChaosFile } from './chaos-door.js'
import { Progress, UserError } from './console.js'
import { provideImages } from './images.js'
import { existingLayout, readLayout, writeLayout } from './layout-file.js'
import {
  type BusKind,
  type ClusterLayout,
  layOut,
  machineNamesOf,
  Places,
  portsOf,
  processNamesOf,
  type RuntimeKind,
  SLOTS,
} from './layout.js'
import { clearLeftovers } from './leftovers.js'
import { machinePid, runningProcesses, startMachine, stopMachine } from './machines.js'
import { networkConflict, setUpNetwork } from './network.js'
import { provideHost } from './packages.js'
import type { RecoverySettings } from './recovery-flags.js'
import { ensurePki } from './pki.js'
import { waitFor } from './process-file.js'
import { run } from './shell.js'
import { clusterReady } from './status.js'

export interface UpOptions extends RecoverySettings {
  data: string
  masters: number
  nodes: number
  runtime: 'auto' | RuntimeKind
  bus: 'auto' | BusKind
  port: number
  detach: boolean
  /** Its processes misbehave on demand (`chaos-door.ts`). */
  chaos?: ChaosFile
}

const FREE_BYTES_MIN = 512 * 1024 * 1024
const READY_TIMEOUT_MS = 60_000
const STOP_TIMEOUT_MS = 8000
const INTERRUPT_LOOK_MS = 200
/** All machines end one after the other in it. */
const EMBEDDED_STOP_TIMEOUT_MS = 20_000

/** Starts a cluster and waits until every node is Ready. Detached, it then returns; else it stays until Ctrl-C. */
export async function up(options: UpOptions): Promise<void> {
  const progress = new Progress()
  const places = new Places(options.data)
  refuseSecondUp(places)
  checkNumbers(options)
  const host = await provideHost(
    { bus: options.bus !== 'memory', containers: options.runtime === 'auto' || options.runtime === 'containerd' },
    (text) => progress.step(text),
  )
  const choice = choose(options, host)
  for (const lack of host.lacks) progress.warn(lack)
  if (choice.bus === 'memory')
    progress.warn(
      'in-process bus: all machines live in one process; they share its event loop, and none can be killed, paused or started singly from outside',
    )
  checkDisk(options.data)
  const layout = await chooseLayout(options, choice, places)
  await checkPorts(layout)

  const started: string[] = []
  try {
    mkdirSync(places.data, { recursive: true })
    const left = await clearLeftovers(layout, places)
    for (const problem of left) progress.warn(problem)
    if (!existsSync(places.layout)) writeFileSync(places.newCluster, '')
    writeLayout(places, layout)
    writeChaosFile(places, options.chaos)
    await ensurePki(layout, places)
    if (layout.runtime === 'containerd') await provideImages(places, (text) => progress.step(text))
    if (layout.isolated) await setUpNetwork(layout)
    progress.step(
      `starting ${layout.masters.length} masters and ${layout.nodes.length} nodes (${layout.bus} bus, ${layout.runtime} runtime)`,
    )
    for (const name of processNamesOf(layout)) {
      startMachine(layout, places, name)
      started.push(name)
    }
    await awaitReady(layout, places, progress)
    rmSync(places.newCluster, { force: true })
  } catch (error) {
    progress.step('stopping what was started')
    await Promise.all(started.map((name) => stopMachine(layout, places, name, STOP_TIMEOUT_MS)))
    await clearLeftovers(layout, places)
    throw error
  }
  progress.done(`ready: kubectl --kubeconfig ${places.kubeconfig} get nodes`)
  if (options.detach) return
  await untilInterrupted(layout, places)
  progress.step('stopping')
  await stop(options.data, progress)
}

/** Stops every machine and removes everything but the data. Also clears up after a crash. */
export async function stop(data: string, progress = new Progress()): Promise<void> {
  const places = new Places(data)
  const layout = existingLayout(places)
  const names = machineNamesOf(layout)
  // Nodes first: while masters live, kubelets can still say goodbye; then all masters at once.
  await stopMachine(layout, places, 'embedded', EMBEDDED_STOP_TIMEOUT_MS)
  await stopMachine(layout, places, 'gateway', STOP_TIMEOUT_MS)
  await Promise.all(layout.nodes.map((n) => stopMachine(layout, places, n.name, STOP_TIMEOUT_MS)))
  await Promise.all(layout.masters.map((m) => stopMachine(layout, places, m.name, STOP_TIMEOUT_MS)))
  const problems = await clearLeftovers(layout, places)
  for (const problem of problems) progress.warn(problem)
  if (problems.length > 0) throw new UserError('not everything could be removed')
  progress.done(`stopped ${names.length} machines; the data stays in ${data}`)
}

function refuseSecondUp(places: Places): void {
  const layout = readLayout(places)
  if (!layout) return
  const alive = runningProcesses(layout, places)
  if (alive.length > 0)
    throw new UserError(`a cluster already runs in ${places.data} (${alive.join(', ')}); npm stop ends it`)
}

function checkNumbers(options: UpOptions): void {
  if (!Number.isInteger(options.masters) || options.masters < 1 || options.masters > 9)
    throw new UserError('--masters must be a whole number from 1 to 9')
  if (!Number.isInteger(options.nodes) || options.nodes < 0 || options.nodes > 50)
    throw new UserError('--nodes must be a whole number from 0 to 50')
  if (!Number.isInteger(options.port) || options.port < 1024 || options.port > 65_000)
    throw new UserError('--port must be a whole number from 1024 to 65000')
}

function choose(
  options: UpOptions,
  host: { bus: boolean; containers: boolean; lacks: string[] },
): { bus: BusKind; runtime: RuntimeKind } {
  if (options.bus === 'nats' && !host.bus) throw new UserError(`--bus nats: ${host.lacks.join('; ')}`)
  if (options.runtime === 'containerd' && !host.containers)
    throw new UserError(`--runtime containerd: ${host.lacks.join('; ')}`)
  const bus = options.bus === 'auto' ? (host.bus ? 'nats' : 'memory') : options.bus
  const runtime =
    options.runtime === 'auto' ? (host.containers && bus === 'nats' ? 'containerd' : 'process') : options.runtime
  if (runtime === 'containerd' && bus === 'memory')
    throw new UserError(
      '--runtime containerd needs --bus nats: with the in-process bus a node has no process of its own',
    )
  return { bus, runtime }
}

function checkDisk(data: string): void {
  const parent = existsSync(data) ? data : '.'
  const { bavail, bsize } = statfsSync(parent)
  if (bavail * bsize < FREE_BYTES_MIN)
    throw new UserError(
      `${data}: only ${Math.floor((bavail * bsize) / 1024 / 1024)} MiB free on its disk; at least ${FREE_BYTES_MIN / 1024 / 1024} MiB are needed`,
    )
}

/** The layout of an earlier run is kept (its objects name its nodes); flags that differ from it are refused. */
async function chooseLayout(
  options: UpOptions,
  choice: { bus: BusKind; runtime: RuntimeKind },
  places: Places,
): Promise<ClusterLayout> {
  const earlier = readLayout(places)
  const slot = earlier?.slot ?? (choice.runtime === 'containerd' ? await freeSlot() : 0)
  const wanted = layOut({
    ...options,
    ...choice,
    slot,
    id: createHash('sha256').update(options.data).digest('hex').slice(0, 8),
  })
  if (earlier && earlier.masters.length !== wanted.masters.length)
    throw new UserError(
      `the cluster in ${options.data} has ${earlier.masters.length} masters; members are not added or removed by --masters (use another --data)`,
    )
  if (wanted.isolated) {
    const conflict = await networkConflict(wanted)
    if (conflict) throw new UserError(conflict)
  }
  return wanted
}

async function freeSlot(): Promise<number> {
  for (let slot = 0; slot < SLOTS; slot++)
    if ((await run('ip', ['link', 'show', `capstan${slot}`])).code !== 0) return slot
  throw new UserError(`${SLOTS} clusters with containers run on this host already`)
}

async function checkPorts(layout: ClusterLayout): Promise<void> {
  for (const port of portsOf(layout)) {
    const problem = await new Promise<string | undefined>((resolve) => {
      const probe = createServer()
      probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code))
      probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(undefined)))
    })
    if (problem) throw new UserError(`port ${port} on 127.0.0.1 cannot be had (${problem}); choose another with --port`)
  }
}

async function awaitReady(layout: ClusterLayout, places: Places, progress: Progress): Promise<void> {
  let told = ''
  const admin = new AdminClient(places)
  const ready = await waitFor(
    async () => {
      for (const name of processNamesOf(layout))
        if (machinePid(places, name) === undefined)
          throw new UserError(`${name} ended while starting; see ${places.log(name)}`)
      const state = await clusterReady(layout, admin)
      if (state.text !== told) progress.step(state.text)
      told = state.text
      return state.ready
    },
    READY_TIMEOUT_MS,
    50,
  ).finally(() => admin.close())
  if (!ready) throw new UserError(`not ready after ${READY_TIMEOUT_MS / 1000} s (${told}); logs are in ${places.logs}`)
}

/** Until Ctrl-C; or until the one process that holds all machines is gone: then nobody is left who could start it again. */
async function untilInterrupted(layout: ClusterLayout, places: Places): Promise<void> {
  let interrupted = false
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      interrupted = true
    })
  const lost = () => layout.bus === 'memory' && machinePid(places, 'embedded') === undefined
  // Signal handlers do not keep a process alive; the timer does.
  while (!interrupted) {
    if (lost()) throw new UserError(`the cluster's process ended; see ${places.log('embedded')}`)
    await new Promise((resolve) => setTimeout(resolve, INTERRUPT_LOOK_MS))
  }
}
