/**
 * The same schedules in the simulated world: the whole control plane on three masters and three nodes, in virtual time, from one
 * seed. Workload and checkers are the simulation's own (`src/sim/cluster-scenario.ts`).
 */
import type { LinkCondition, Simulation } from '@capstan/sim'
import { clusterScenario } from '../../sim/cluster-scenario.js'
import { NORMAL_CAPACITY_BYTES, NORMAL_SYNC_MS } from '../../sim/faults.js'
import type { ClusterTargets, Played, ScenarioReport } from '../../sim/scenario.js'
import { SimRandom } from '@capstan/sim'
import { withVerdict } from '../run.js'
import type {
  FaultParameters,
  FaultRecord,
  Json,
  Machine,
  PromiseState,
  PromiseVerdict,
  RunRecord,
  Scenario,
  Schedule,
  ScheduledFault,
  Verdict,
} from '../types.js'
import { onceSomebodyIs, resolveWhom } from '../whom.js'

export const SIM_MACHINES: readonly Machine[] = [
  ...['master-0', 'master-1', 'master-2'].map((name, at) => ({
    name,
    role: 'master' as const,
    zone: at === 1 ? 'b' : 'a',
  })),
  ...['node-0', 'node-1', 'node-2'].map((name, at) => ({ name, role: 'node' as const, zone: at === 1 ? 'b' : 'a' })),
]

const WARM_UP_MS = 1000

/** Which promise the simulation's checkers speak of, by the first word of what they find. */
const PROMISE_OF: Readonly<Record<string, string>> = {
  durability: 'S1',
  watch: 'S3',
  'equal state': 'S4',
  convergence: 'C1',
  fencing: 'C2',
  binding: 'C4',
  member: 'S1',
}
const JUDGED = ['S1', 'S3', 'S4', 'C1', 'C2', 'C4']

/** Its machine starts a store that died again after so long. */
const STORE_BACK_MS = 400

type Link = readonly [from: string, to: string]

/** What faults make of the links between machines: where several are in force, each link has what they make of it together. */
class LinkFaults {
  private readonly inForce = new Set<{ links: readonly Link[]; condition: Partial<LinkCondition> }>()

  constructor(private readonly network: Simulation['network']) {}

  /** Where two give one thing, the later one counts. Returns how to undo this one. */
  add(links: readonly Link[], condition: Partial<LinkCondition>): () => void {
    const fault = { links, condition }
    this.inForce.add(fault)
    for (const link of links) this.settle(link)
    return () => {
      this.inForce.delete(fault)
      for (const link of links) this.settle(link)
    }
  }

  private settle([from, to]: Link): void {
    const { network } = this
    const condition = { ...network.normal, delayMs: [...network.normal.delayMs] as [number, number] }
    for (const fault of this.inForce)
      if (fault.links.some((link) => link[0] === from && link[1] === to)) Object.assign(condition, fault.condition)
    Object.assign(network.link(from, to), condition)
  }
}

interface Strike {
  struck: string[]
  proof: string
  means: string
  undo(): void
  /** Once more, after what another fault ended: one of them may have taken this one's effect back. */
  again?(): void
}

const COMPONENTS: ReadonlySet<string> = new Set(['machine', 'bus', 'store', 'control', 'kubelet', 'group'])

/** Why the simulation cannot make it; undefined: it can. */
export function simLack({ fault, parameters }: Pick<ScheduledFault, 'fault' | 'parameters'>): string | undefined {
  const component = parameters['component'] ?? 'machine'
  switch (fault) {
    case 'kill':
    case 'restart':
    case 'hang':
      return COMPONENTS.has(String(component)) ? undefined : `the simulation has no ${String(component)}`
    case 'isolate':
    case 'halves':
    case 'bridge':
    case 'ring':
    case 'one-way':
    case 'partial':
    case 'flapping':
    case 'delay':
    case 'loss':
    case 'duplicate':
    case 'reorder':
    case 'disk-full':
    case 'slow-sync':
    case 'failing-sync':
    case 'lost-unsynced':
    case 'clock-jump':
    case 'clock-skew':
    case 'containers-killed':
    case 'delete-pods':
    case 'cordon':
    case 'drain':
    case 'routes-cut':
      return undefined
    default:
      return 'the simulated cluster has no such lever'
  }
}

/** Plays a schedule in virtual time. What became of each line stands in `records`. */
export function playSchedule(schedule: Schedule, records: FaultRecord[], notTested: RunRecord['notTested']) {
  return (simulation: Simulation, targets: ClusterTargets): Played => {
    const counts: Record<string, number> = {}
    const inForce = new Map<FaultRecord, Strike>()
    const random = simulation.random.fork('schedule')
    const startMs = simulation.nowMs
    const linkFaults = new LinkFaults(simulation.network)
    let healed = false
    const undo = (record: FaultRecord) => {
      const strike = inForce.get(record)
      if (!strike) return
      inForce.delete(record)
      record.undoAskedMs = simulation.nowMs - startMs
      strike.undo()
      for (const other of inForce.values()) other.again?.()
      record.undoneMs = simulation.nowMs - startMs
      record.undoProof = 'undone'
    }
    schedule.faults.forEach((line, index) => {
      simulation.at(startMs + WARM_UP_MS + line.atMs, () => {
        if (healed) return
        const record: FaultRecord = {
          index,
          fault: line.fault,
          parameters: line.parameters,
          result: 'not tested',
          struck: [],
          askedMs: simulation.nowMs - startMs,
        }
        records.push(record)
        const why = simLack(line)
        if (why !== undefined) {
          record.why = why
          if (!notTested.some(({ what }) => what === `fault ${line.fault}`))
            notTested.push({ what: `fault ${line.fault}`, why })
          return
        }
        onceSomebodyIs(() => make(line, record), {
          nowMs: () => simulation.nowMs,
          sleep: (ms) => simulation.sleep(ms),
          isOver: () => healed,
        }).catch((error: unknown) => {
          record.result = 'failed'
          record.why = (error as Error).message
        })
      })
    })

    async function make(line: ScheduledFault, record: FaultRecord): Promise<void> {
      const [leader, controllers] = [await targets.leader(), targets.controllers()]
      if (healed) return
      const look = {
        ...(leader === undefined ? {} : { leader }),
        ...(controllers === undefined ? {} : { controllers }),
      }
      const whom = (role: Json | undefined) =>
        (Array.isArray(role) ? role : [role ?? '']).flatMap((one) =>
          resolveWhom(String(one), SIM_MACHINES, look, random),
        )
      const done = await strike(simulation, linkFaults, targets, line, whom)
      Object.assign(record, { result: 'made', struck: done.struck, proof: done.proof, means: done.means })
      record.inForceMs = simulation.nowMs - startMs
      counts[`fault.${line.fault}`] = (counts[`fault.${line.fault}`] ?? 0) + 1
      simulation.trace.add('fault', simulation.nowMs, done.struck.join(','), line.fault)
      inForce.set(record, done)
      if (healed) undo(record)
      else simulation.at(simulation.nowMs + line.lastsMs, () => undo(record))
    }

    return {
      counts,
      heal() {
        healed = true
        for (const record of [...inForce.keys()]) undo(record)
      },
    }
  }
}

async function strike(
  simulation: Simulation,
  linkFaults: LinkFaults,
  targets: ClusterTargets,
  { fault, parameters, lastsMs }: ScheduledFault,
  whom: (role: Json | undefined) => string[],
): Promise<Strike> {
  const { network } = simulation
  const random = simulation.random.fork(`strike/${simulation.nowMs}`)
  const number = (name: string, otherwise: number) => Number(parameters[name] ?? otherwise)
  const machines = SIM_MACHINES.map((machine) => machine.name)
  const masters = machines.filter((name) => name.startsWith('master'))
  const change = (links: readonly Link[], condition: Partial<LinkCondition>, struck: string[]): Strike => {
    const wanted = links.filter(([from, to]) => from !== to)
    if (wanted.length === 0) throw new Error('there is no such link')
    return {
      struck,
      means: 'condition of simulated links',
      proof: `${wanted.length} directions: ${JSON.stringify(condition)}`,
      undo: linkFaults.add(wanted, condition),
    }
  }
  const links = (a: readonly string[], b: readonly string[]) =>
    a.flatMap((x) => b.flatMap((y) => [[x, y] as const, [y, x] as const]))
  const rest = (struck: readonly string[]) => targets.linked.filter((name) => !struck.includes(name))
  const disks = (struck: string[], what: string, on: (name: string) => void, off: (name: string) => void): Strike => {
    const again = () => struck.forEach(on)
    again()
    return { struck, means: 'condition of simulated disks', proof: what, again, undo: () => struck.forEach(off) }
  }
  const struck = 'whom' in parameters ? whom(parameters['whom']) : []
  const component = String(parameters['component'] ?? 'machine')
  const asked = (proof: string, undo: () => void = () => undefined): Strike => ({
    struck,
    means: 'requests to the API',
    proof,
    undo,
  })
  switch (fault) {
    case 'kill':
    case 'restart':
    case 'lost-unsynced': {
      if (component === 'bus') {
        for (const name of struck) for (const bus of network.of(name)) bus.disconnect()
        const undo = () => {
          for (const name of struck) for (const bus of network.of(name)) bus.reconnect()
        }
        return { struck, means: 'connections to the bus lost', proof: `${struck.join(', ')} off the bus`, undo }
      }
      if (component !== 'machine') {
        for (const name of struck) targets.kill(name, component)
        const back = () => {
          for (const name of struck) targets.revive(name, component)
        }
        // A store is started again by its machine; whoever does that itself waits for the end of the fault.
        if (component === 'store') simulation.at(simulation.nowMs + STORE_BACK_MS, back)
        return {
          struck,
          means: 'end of a simulated process',
          proof: `${component} of ${struck.join(', ')} dead`,
          undo: back,
        }
      }
      for (const name of struck) simulation.machine(name).crash()
      return {
        struck,
        means: 'crash of a simulated machine: un-synced writes are lost or torn',
        proof: `${struck.filter((name) => !simulation.machine(name).up).join(', ')} down`,
        undo: () => {
          for (const name of struck) {
            if (simulation.machine(name).up) continue
            simulation.machine(name).restart()
            targets.restart(name)
          }
        },
      }
    }
    case 'hang':
      for (const name of struck)
        if (component === 'machine') simulation.machine(name).pause(lastsMs)
        else if (component === 'bus') network.stall(name, lastsMs)
        else targets.pause(name, component, lastsMs)
      return {
        struck,
        means: component === 'machine' ? 'pause of a simulated machine' : 'pause of a simulated process',
        proof: `${component} of ${struck.join(', ')} paused`,
        undo: () => undefined,
      }
    case 'isolate':
      return change(links(struck, rest(struck)), { cut: true }, struck)
    case 'halves': {
      const side = whom(parameters['side'])
      return change(links(side, rest(side)), { cut: true }, side)
    }
    case 'bridge': {
      const [bridge] = whom(parameters['bridge'])
      const others = masters.filter((name) => name !== bridge)
      const half = Math.ceil(others.length / 2)
      return change(links(others.slice(0, half), others.slice(half)), { cut: true }, others)
    }
    case 'ring': {
      const apart = (a: number, b: number) => Math.min(Math.abs(a - b), masters.length - Math.abs(a - b)) > 1
      const far = masters.flatMap((from, a) => masters.filter((_, b) => apart(a, b)).map((to) => [from, to] as const))
      return change(far, { cut: true }, masters)
    }
    case 'one-way': {
      const isIn = parameters['direction'] === 'in'
      const others = rest(struck)
      const one = struck.flatMap((name) =>
        others.map((other) => (isIn ? ([other, name] as const) : ([name, other] as const))),
      )
      return change(one, { cut: true }, struck)
    }
    case 'partial': {
      const from = whom(parameters['from'])
      return change(links(struck, from), { cut: true }, [...struck, ...from])
    }
    case 'flapping':
      return flapping(simulation, parameters, () => change(links(struck, rest(struck)), { cut: true }, struck))
    case 'delay':
      return change(links(struck, rest(struck)), { delayMs: [number('ms', 50), number('ms', 50) * 1.2] }, struck)
    case 'loss':
      return change(links(struck, rest(struck)), { loss: number('share', 0.1) }, struck)
    case 'duplicate':
      return change(links(struck, rest(struck)), { duplicate: number('share', 0.1) }, struck)
    case 'reorder':
      return change(links(struck, rest(struck)), { reorder: true, delayMs: [0.05, 50] }, struck)
    case 'disk-full': {
      return disks(
        struck,
        `no room on ${struck.join(', ')}`,
        (name) => {
          const { disk } = simulation.machine(name)
          disk.condition.capacityBytes = disk.usedBytes
        },
        (name) => {
          simulation.machine(name).disk.condition.capacityBytes = NORMAL_CAPACITY_BYTES
        },
      )
    }
    case 'slow-sync': {
      const ms = number('ms', 500)
      const set = (syncMs: readonly [number, number]) => (name: string) => {
        simulation.machine(name).disk.condition.syncMs = [...syncMs]
      }
      return disks(struck, `syncs take ${ms} ms on ${struck.join(', ')}`, set([ms, ms * 1.1]), set(NORMAL_SYNC_MS))
    }
    case 'failing-sync': {
      const set = (failing: boolean) => (name: string) => {
        simulation.machine(name).disk.condition.failing = failing
      }
      return disks(struck, `every operation fails on ${struck.join(', ')}`, set(true), set(false))
    }
    case 'clock-jump': {
      const ms = number('ms', 60_000)
      const shift = (by: number) => {
        for (const name of struck) simulation.machine(name).clockOffsetMs += by
      }
      shift(ms)
      // Jumps add up: each is taken back by itself.
      return {
        struck,
        means: 'simulated clocks',
        proof: `${ms} ms on ${struck.join(', ')}`,
        undo: () => shift(-ms),
      }
    }
    case 'clock-skew': {
      const set = (rate: number) => (name: string) => simulation.machine(name).setClockRate(rate)
      const rate = number('rate', 1.05)
      return { ...disks(struck, `rate ${rate} on ${struck.join(', ')}`, set(rate), set(1)), means: 'simulated clocks' }
    }
    case 'routes-cut': {
      const [a, b] = [whom(parameters['a']), whom(parameters['b'])]
      return change(links(a, b), { cut: true }, [...a, ...b])
    }
    case 'containers-killed': {
      const [node = ''] = struck
      const pods = await targets.killContainers(node, number('count', 1), random)
      const proof = `containers of ${pods.join(', ') || 'no pod'} ended`
      return { struck, means: 'the pretended runtime ends them', proof, undo: () => undefined }
    }
    case 'delete-pods': {
      const pods = await targets.administrator.deletePods(number('count', 1), parameters['force'] === true, random)
      return asked(`deleted: ${pods.join(', ')}`)
    }
    case 'cordon':
    case 'drain': {
      const [node = ''] = struck
      const { administrator } = targets
      const uncordon = () => void administrator.cordon(node, false).catch((error: unknown) => simulation.fail(error))
      if (fault === 'cordon') await administrator.cordon(node, true)
      else {
        try {
          await administrator.drain(node)
        } catch (error) {
          uncordon()
          throw error
        }
      }
      return asked(fault === 'cordon' ? `${node} is cordoned` : `${node} is empty`, uncordon)
    }
    default:
      throw new Error('the simulated cluster has no such lever')
  }
}

function flapping(simulation: Simulation, parameters: FaultParameters, cut: () => Strike): Strike {
  let now: Strike | undefined = cut()
  let over = false
  const { struck, means, proof } = now
  const [offMs, onMs] = [Number(parameters['offMs'] ?? 1000), Number(parameters['onMs'] ?? 1000)]
  const turn = () => {
    if (over) return
    now?.undo()
    now = now ? undefined : cut()
    simulation.at(simulation.nowMs + (now ? offMs : onMs), turn)
  }
  simulation.at(simulation.nowMs + offMs, turn)
  return {
    struck,
    means,
    proof,
    undo: () => {
      over = true
      now?.undo()
    },
  }
}

/** One seed of a scenario in virtual time. The same seed gives the same run, trace hash and all. */
export async function runInSimulation(
  scenario: Scenario,
  seed: string,
  options: {
    troubleMs?: number
    schedule?: Schedule
    bug?: string
    startedAt: string
    environment: Record<string, string>
  },
): Promise<{ run: RunRecord; report: ScenarioReport }> {
  const troubleMs = options.troubleMs ?? scenario.troubleMs
  const random = new SimRandom(`chaos/${scenario.name}/${seed}`)
  const schedule = options.schedule ?? scenario.schedule(random.fork('schedule'), { machines: SIM_MACHINES, troubleMs })
  const faults: FaultRecord[] = []
  const notTested: RunRecord['notTested'] = []
  const report = await clusterScenario.run(seed, {
    troubleMs: WARM_UP_MS + troubleMs,
    play: playSchedule(schedule, faults, notTested),
    ...(options.bug === undefined ? {} : { bug: options.bug }),
  })
  const promises = JUDGED.map((promise): PromiseVerdict => {
    const found = report.violations.filter((text) => promiseOf(text) === promise)
    const state: PromiseState = found.length > 0 ? 'violated' : 'ok'
    return { promise, state, text: found[0] ?? 'held in this history', evidence: found.slice(0, 5) }
  })
  for (const promise of scenario.mustHold)
    if (!JUDGED.includes(promise))
      notTested.push({ what: promise, why: 'the simulated cluster has no workload for it; npm run sim -- store has' })
  const violated = promises.some((one) => one.state === 'violated')
  const unjudged: Omit<RunRecord, 'verdict'> = {
    formatVersion: 1,
    scenario: scenario.name,
    about: scenario.about,
    on: 'sim',
    target: 'three masters and three nodes in the simulated world',
    seed,
    startedAt: options.startedAt,
    environment: { ...options.environment, 'trace hash': report.traceHash },
    machines: SIM_MACHINES,
    // What is not judged here is told as not tested, and is no part of this run's verdict.
    mustHold: scenario.mustHold.filter((promise) => JUDGED.includes(promise)),
    warmUpMs: WARM_UP_MS,
    troubleMs,
    settleMs: scenario.settleMs,
    healedMs: WARM_UP_MS + troubleMs,
    endedMs: report.simulatedMs,
    schedule,
    faults,
    notTested,
    workloads: [],
    samples: [],
    finalState: { atMs: report.simulatedMs, objects: [], lacks: [] },
    troubles: [],
  }
  const verdict: Verdict = {
    state: violated ? 'violated' : 'ok',
    promises,
    recoveries: [],
    requests: { total: report.coverage['operations'] ?? 0, failed: 0 },
  }
  return { run: withVerdict(unjudged, verdict, scenario), report }
}

const promiseOf = (violation: string): string => PROMISE_OF[violation.slice(0, violation.indexOf(':'))] ?? 'S1'
