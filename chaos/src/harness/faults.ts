/** The catalogue of faults. Each needs one lever of the target; how the lever does it is the target's business. */
import type { Random } from '@capstan/actor'
import type { Component, Done, Fault, FaultParameters, InForce, Json, Levers, Target } from './types.js'
import { resolveWhom } from './whom.js'

type Lever<K extends keyof Levers> = NonNullable<Levers[K]>

interface Context<K extends keyof Levers> {
  lever: Lever<K>
  target: Target
  parameters: FaultParameters
  random: Random
  whom(role: Json | undefined): string[]
}

/** In this order, or all at once; undone in reverse. */
interface Steps {
  struck: string[]
  steps: (() => Promise<Done>)[]
  together?: boolean
}

type Kind<K extends keyof Levers> = {
  name: string
  about: string
  lever: K
  means: string
  /** A method of the lever that a target with the lever may still lack. */
  needs?: keyof Lever<K> & string
  draw(random: Random, machines: Pick<Target, 'machines'>): FaultParameters
} & (
  | {
      /** Done to each machine that the parameter `whom` names. */
      strike(lever: Lever<K>, one: string, parameters: FaultParameters): Promise<Done>
      together?: boolean
    }
  | {
      /** All that is done, where that is something else. */
      steps(context: Context<K>): Steps
    }
)

/** `whom` each, as the kind says. */
function stepsOf<K extends keyof Levers>(kind: Kind<K>, context: Context<K>): Steps {
  if ('steps' in kind) return kind.steps(context)
  const { lever, parameters, whom } = context
  const struck = whom(parameters['whom'])
  const steps = struck.map((one) => () => kind.strike(lever, one, parameters))
  return { struck, steps, together: kind.together ?? false }
}

const pick = <T>(random: Random, list: readonly T[]): T => list[random.int(list.length)] as T
const between = (random: Random, low: number, high: number) => Math.round(low + random.next() * (high - low))
const anyMachine = (random: Random, { machines }: Pick<Target, 'machines'>) => pick(random, machines).name
const anyMaster = (random: Random, { machines }: Pick<Target, 'machines'>) =>
  pick(random, ['leader', ...machines.filter((machine) => machine.role === 'master').map((machine) => machine.name)])
const anyNode = (random: Random, { machines }: Pick<Target, 'machines'>) =>
  pick(
    random,
    machines.filter((machine) => machine.role === 'node').map((machine) => machine.name),
  ) ?? 'node:0'
const rest = (struck: readonly string[], target: Target) =>
  target.machines.map((machine) => machine.name).filter((name) => !struck.includes(name))
/** Both directions of every link between the two sides. */
const links = (a: readonly string[], b: readonly string[]) =>
  a.flatMap((x) => b.filter((y) => y !== x).flatMap((y) => [[x, y] as const, [y, x] as const]))

function define<K extends keyof Levers>(kind: Kind<K>): Fault {
  const lack = (target: Target): string | undefined => {
    const lever = target.levers[kind.lever] as Lever<K> | undefined
    if (!lever) return target.lacks[kind.name] ?? target.lacks[kind.lever] ?? `this target has no lever "${kind.lever}"`
    if (target.lacks[kind.name] !== undefined) return target.lacks[kind.name]
    if (kind.needs !== undefined && (lever as Record<string, unknown>)[kind.needs] === undefined)
      return target.lacks[`${kind.lever}.${kind.needs}`] ?? `this target cannot ${kind.lever}.${kind.needs}`
    return undefined
  }
  return {
    name: kind.name,
    about: kind.about,
    lever: kind.lever,
    lack,
    draw: (random, machines) => kind.draw(random, machines),
    async inject(target, parameters, random) {
      const why = lack(target)
      if (why !== undefined) throw new Error(why)
      const needsLook = JSON.stringify(parameters).match(/"(leader|follower|controllers)/) !== null
      const look = needsLook ? await target.look() : {}
      const whom = (role: Json | undefined) =>
        (Array.isArray(role) ? role : [role ?? '']).flatMap((one) =>
          resolveWhom(String(one), target.machines, look, random),
        )
      const lever = target.levers[kind.lever] as Lever<K>
      const { struck, steps, together } = stepsOf(kind, { lever, target, parameters, random, whom })
      return { struck, means: kind.means, ...(await doAll(steps, together ?? false)) }
    },
  }
}

/** A part of a fault that failed is still in force. */
class LeftInForce extends Error {
  override readonly name = 'LeftInForce'
}

/** Does all or nothing. @throws LeftInForce if nothing could not be had. */
async function doAll(steps: readonly (() => Promise<Done>)[], together: boolean): Promise<Done> {
  const done: Done[] = []
  const undoAll = async () => {
    const proofs: string[] = []
    const wrong: unknown[] = []
    for (const one of [...done].reverse())
      await one.undo().then(
        (proof) => proofs.push(proof),
        (error: unknown) => wrong.push(error),
      )
    if (wrong.length > 0) throw new Error(wrong.map((error) => (error as Error).message).join('; '))
    return summary(proofs)
  }
  try {
    if (together) {
      const results = await Promise.allSettled(steps.map((step) => step()))
      for (const result of results) if (result.status === 'fulfilled') done.push(result.value)
      const failed = results.find((result) => result.status === 'rejected')
      if (failed) throw failed.reason
    } else for (const step of steps) done.push(await step())
  } catch (error) {
    await undoAll().catch((undoing: unknown) => {
      const text = `${(error as Error).message}; and what was done of it could not be undone: ${String(undoing)}`
      throw new LeftInForce(text)
    })
    throw error
  }
  let undone: Promise<string> | undefined
  return { proof: summary(done.map((one) => one.proof)), undo: () => (undone ??= undoAll()) }
}

const PROOFS_SHOWN = 4

function summary(proofs: readonly string[]): string {
  const shown = proofs.slice(0, PROOFS_SHOWN).join('; ')
  return proofs.length > PROOFS_SHOWN ? `${shown}; and ${proofs.length - PROOFS_SHOWN} more` : shown
}

const MASTER_COMPONENTS: readonly Component[] = ['machine', 'store', 'bus', 'control']
const NODE_COMPONENTS: readonly Component[] = ['machine', 'kubelet']
const drawProcess = (random: Random, target: Pick<Target, 'machines'>, only?: 'machine'): FaultParameters => {
  const machine = pick(random, target.machines)
  const component = only ?? pick(random, machine.role === 'master' ? MASTER_COMPONENTS : NODE_COMPONENTS)
  const whom = machine.role === 'master' && random.next() < 0.4 ? 'leader' : machine.name
  return { whom, component }
}
const componentOf = (parameters: FaultParameters) => (parameters['component'] ?? 'machine') as Component
const number = (parameters: FaultParameters, name: string, otherwise: number) => Number(parameters[name] ?? otherwise)

export const FAULTS: readonly Fault[] = [
  // ------------------------------------------------------------------------------------------------ processes
  define({
    name: 'kill',
    about: 'kill -9 of a process, a machine, the leader, a majority, everything; started again afterwards',
    lever: 'processes',
    means: 'SIGKILL',
    draw: drawProcess,
    strike: (lever, one, parameters) => lever.kill(one, componentOf(parameters)),
    together: true,
  }),
  define({
    name: 'hang',
    about: 'a process or machine stands still and goes on later: alive for the kernel, deaf for its peers',
    lever: 'processes',
    means: 'SIGSTOP, SIGCONT',
    draw: drawProcess,
    strike: (lever, one, parameters) => lever.pause(one, componentOf(parameters)),
    together: true,
  }),
  define({
    name: 'restart',
    about:
      'a clean end by SIGTERM, and a start: of a component, a machine, the leader, all masters, one after the other',
    lever: 'processes',
    means: 'SIGTERM, then started',
    draw: (random, target) => drawProcess(random, target, 'machine'),
    steps: ({ lever, parameters, whom }) => {
      const struck = whom(parameters['whom'])
      const steps = struck.map((one) => () => lever.restart(one, componentOf(parameters)))
      return { struck, steps, together: parameters['together'] === true }
    },
  }),
  define({
    name: 'cpu-pressure',
    about: 'others on the machine want its processors',
    lever: 'processes',
    needs: 'burnCpu',
    means: 'busy processes beside it',
    draw: (random, target) => ({ whom: anyMachine(random, target), threads: 1 + random.int(4) }),
    strike: (lever, one, parameters) =>
      (lever.burnCpu as NonNullable<typeof lever.burnCpu>)(one, number(parameters, 'threads', 2)),
  }),
  define({
    name: 'memory-pressure',
    about: 'the machine runs short of memory',
    lever: 'processes',
    needs: 'squeezeMemory',
    means: 'a lid on its cgroup',
    draw: (random, target) => ({ whom: anyMachine(random, target), bytes: between(random, 64, 256) * 1024 * 1024 }),
    strike: (lever, one, parameters) =>
      (lever.squeezeMemory as NonNullable<typeof lever.squeezeMemory>)(
        one,
        number(parameters, 'bytes', 128 * 1024 * 1024),
      ),
  }),
  define({
    name: 'blocked-event-loop',
    about: 'a process computes and answers nobody, for so long at a time, again and again',
    lever: 'eventLoop',
    means: 'the process blocks itself, asked over its chaos socket',
    draw: (random, target) => ({
      whom: anyMaster(random, target),
      component: 'control',
      ms: between(random, 100, 1500),
    }),
    strike: (lever, one, parameters) => lever.block(one, componentOf(parameters), number(parameters, 'ms', 500)),
  }),
  // -------------------------------------------------------------------------------------------------- network
  define({
    name: 'isolate',
    about: 'a machine, or a zone, and all others do not hear each other',
    lever: 'network',
    means: 'packets dropped on its links',
    draw: (random, target) => ({ whom: random.next() < 0.3 ? 'leader' : anyMachine(random, target) }),
    steps: ({ lever, target, parameters, whom }) => {
      const struck = whom(parameters['whom'])
      const cut = links(struck, rest(struck, target)).map(
        ([from, to]) =>
          () =>
            lever.cut(from, to),
      )
      return { struck, steps: cut, together: true }
    },
  }),
  define({
    name: 'halves',
    about: 'the machines fall into two sides that do not hear each other',
    lever: 'network',
    means: 'packets dropped between the sides',
    draw: (random, { machines }) => ({
      side: machines.map((machine) => machine.name).filter(() => random.next() < 0.5),
    }),
    steps: ({ lever, target, parameters, whom }) => {
      const struck = whom(parameters['side'])
      const cut = links(struck, rest(struck, target)).map(
        ([from, to]) =>
          () =>
            lever.cut(from, to),
      )
      return { struck, steps: cut, together: true }
    },
  }),
  define({
    name: 'bridge',
    about: 'two sides of masters that do not hear each other, and one master that hears both',
    lever: 'network',
    means: 'packets dropped between the sides',
    draw: (random, { machines }) => {
      const masters = machines.filter((machine) => machine.role === 'master').map((machine) => machine.name)
      return { bridge: pick(random, ['leader', ...masters]) }
    },
    steps: ({ lever, target, parameters, whom }) => {
      const [bridge] = whom(parameters['bridge'])
      const others = target.machines.filter((m) => m.role === 'master' && m.name !== bridge).map((m) => m.name)
      const half = Math.ceil(others.length / 2)
      const cut = links(others.slice(0, half), others.slice(half)).map(
        ([from, to]) =>
          () =>
            lever.cut(from, to),
      )
      return { struck: others, steps: cut, together: true }
    },
  }),
  define({
    name: 'ring',
    about: 'each master hears only its two neighbours (it takes five for a ring that is not whole)',
    lever: 'network',
    means: 'packets dropped between those that are no neighbours',
    draw: () => ({}),
    steps: ({ lever, target }) => {
      const ring = target.machines.filter((machine) => machine.role === 'master').map((machine) => machine.name)
      const apart = (a: number, b: number) => Math.min(Math.abs(a - b), ring.length - Math.abs(a - b)) > 1
      const cut = ring.flatMap((from, a) => ring.filter((_, b) => apart(a, b)).map((to) => () => lever.cut(from, to)))
      if (cut.length === 0) throw new Error(`${ring.length} masters are all neighbours in a ring`)
      return { struck: ring, steps: cut, together: true }
    },
  }),
  define({
    name: 'one-way',
    about: 'a machine is heard and hears nobody, or hears and is not heard',
    lever: 'network',
    means: 'packets dropped in one direction',
    draw: (random, target) => ({
      whom: random.next() < 0.4 ? 'leader' : anyMachine(random, target),
      direction: pick(random, ['in', 'out']),
    }),
    steps: ({ lever, target, parameters, whom }) => {
      const struck = whom(parameters['whom'])
      const isIn = parameters['direction'] === 'in'
      const steps = struck.flatMap((one) =>
        rest(struck, target).map((other) => () => (isIn ? lever.cut(other, one) : lever.cut(one, other))),
      )
      return { struck, steps, together: true }
    },
  }),
  define({
    name: 'partial',
    about: 'one follower hears only one of its peers and not the leader (Cloudflare, November 2020: leaders that flap)',
    lever: 'network',
    means: 'packets dropped between two masters',
    draw: () => ({ whom: 'follower:0', from: 'leader' }),
    steps: ({ lever, parameters, whom }) => {
      const [struck, from] = [whom(parameters['whom']), whom(parameters['from'])]
      return {
        struck: [...struck, ...from],
        steps: links(struck, from).map(
          ([a, b]) =>
            () =>
              lever.cut(a, b),
        ),
        together: true,
      }
    },
  }),
  define({
    name: 'flapping',
    about: 'the links of a machine come and go',
    lever: 'network',
    means: 'packets dropped on its links, on and off',
    draw: (random, target) => ({
      whom: random.next() < 0.4 ? 'leader' : anyMachine(random, target),
      onMs: between(random, 200, 2000),
      offMs: between(random, 200, 2000),
    }),
    steps: ({ lever, target, parameters, whom }) => {
      const struck = whom(parameters['whom'])
      const cut = links(struck, rest(struck, target)).map(
        ([from, to]) =>
          () =>
            lever.cut(from, to),
      )
      return {
        struck,
        steps: [() => flap(target, cut, number(parameters, 'offMs', 1000), number(parameters, 'onMs', 1000))],
      }
    },
  }),
  ...(
    [
      ['delay', 'packets are late', 'ms', [5, 400]],
      ['loss', 'packets are lost', 'share', [0.01, 0.3]],
      ['duplicate', 'packets arrive twice', 'share', [0.01, 0.3]],
      ['reorder', 'packets overtake each other', 'share', [0.01, 0.3]],
      ['corrupt', 'packets are damaged on their way', 'share', [0.01, 0.2]],
      ['bandwidth', 'links are narrow', 'bytesPerSecond', [20_000, 500_000]],
    ] as const
  ).map(([name, about, unit, [low, high]]) =>
    define({
      name,
      about: `${about} between a machine and all others`,
      lever: 'network',
      needs: name,
      means: `${name} on its links`,
      draw: (random, target) => {
        const value = low + random.next() * (high - low)
        return {
          whom: anyMachine(random, target),
          [unit]: unit === 'share' ? Number(value.toFixed(3)) : Math.round(value),
        }
      },
      steps: ({ lever, target, parameters, whom }) => {
        const struck = whom(parameters['whom'])
        const change = lever[name] as (from: string, to: string, amount: number) => Promise<Done>
        const steps = links(struck, rest(struck, target)).map(
          ([from, to]) =>
            () =>
              change.call(lever, from, to, number(parameters, unit, low)),
        )
        return { struck, steps, together: true }
      },
    }),
  ),
  define({
    name: 'routes-cut',
    about: "two masters' bus servers lose their route; each still serves its own clients",
    lever: 'bus',
    needs: 'cutRoutes',
    means: 'packets of the route dropped',
    draw: () => ({ a: 'leader', b: 'follower:0' }),
    steps: ({ lever, parameters, whom }) => {
      const [a, b] = [whom(parameters['a'])[0] as string, whom(parameters['b'])[0] as string]
      return { struck: [a, b], steps: [() => (lever.cutRoutes as NonNullable<typeof lever.cutRoutes>)(a, b)] }
    },
  }),
  define({
    name: 'slow-consumer',
    about: 'a client of the bus asks for much and reads none of it: it must cost only itself',
    lever: 'bus',
    needs: 'slowConsumer',
    means: 'a process of its own that stops itself',
    draw: () => ({}),
    steps: ({ lever }) => ({
      struck: [],
      steps: [() => (lever.slowConsumer as NonNullable<typeof lever.slowConsumer>)()],
    }),
  }),
  // ----------------------------------------------------------------------------------------------------- disk
  define({
    name: 'disk-full',
    about: "a master's disk takes no more bytes",
    lever: 'disk',
    means: 'decorator of the Disk port',
    draw: (random, target) => ({ whom: anyMaster(random, target) }),
    strike: (lever, one) => lever.full(one),
  }),
  define({
    name: 'slow-sync',
    about: "each sync of a master's disk takes so long",
    lever: 'disk',
    means: 'decorator of the Disk port',
    draw: (random, target) => ({ whom: anyMaster(random, target), ms: between(random, 50, 1500) }),
    strike: (lever, one, parameters) => lever.slowSync(one, number(parameters, 'ms', 500)),
  }),
  define({
    name: 'failing-sync',
    about: "syncs of a master's disk fail: what was written is in doubt, and the store must end",
    lever: 'disk',
    means: 'decorator of the Disk port',
    draw: (random, target) => ({ whom: anyMaster(random, target) }),
    strike: (lever, one) => lever.failSync(one),
  }),
  define({
    name: 'lost-unsynced',
    about: 'the power goes: the store dies and what it had not synced is gone',
    lever: 'disk',
    means: 'decorator of the Disk port, then SIGKILL',
    draw: (random, target) => ({ whom: anyMaster(random, target) }),
    strike: (lever, one) => lever.loseUnsynced(one),
    together: true,
  }),
  define({
    name: 'flipped-bits',
    about: "bits of a master's log are flipped while its store is down: it must notice, and not vote by it",
    lever: 'disk',
    means: 'bytes of the file changed',
    draw: (random) => ({ whom: `follower:${random.int(2)}`, count: 1 + random.int(3) }),
    strike: (lever, one, parameters) => lever.flipBits(one, number(parameters, 'count', 1)),
  }),
  // ---------------------------------------------------------------------------------------------------- clock
  define({
    name: 'clock-jump',
    about: 'the wall clock of a machine jumps',
    lever: 'clock',
    means: 'decorator of the Clock port',
    draw: (random, target) => ({
      whom: anyMachine(random, target),
      ms: between(random, 1000, 3_600_000) * (random.next() < 0.5 ? -1 : 1),
    }),
    strike: (lever, one, parameters) => lever.jump(one, number(parameters, 'ms', 60_000)),
  }),
  define({
    name: 'clock-skew',
    about: 'the clock of a machine runs fast or slow, by at most 5 %',
    lever: 'clock',
    means: 'decorator of the Clock port',
    draw: (random, target) => ({
      whom: anyMachine(random, target),
      rate: Number((0.95 + random.next() * 0.1).toFixed(3)),
    }),
    strike: (lever, one, parameters) => lever.skew(one, number(parameters, 'rate', 1.05)),
  }),
  // ----------------------------------------------------------------------------------------------- containers
  define({
    name: 'containers-killed',
    about: 'containers of a node are killed behind its kubelet’s back',
    lever: 'containers',
    means: 'SIGKILL to their first processes',
    draw: (random, target) => ({ whom: anyNode(random, target), count: 1 + random.int(4) }),
    strike: (lever, one, parameters) => lever.kill(one, number(parameters, 'count', 1)),
  }),
  define({
    name: 'image-unpullable',
    about: 'images can be had no more: new pods wait, old ones run on',
    lever: 'containers',
    needs: 'unpullable',
    means: 'images taken from the nodes',
    draw: () => ({}),
    steps: ({ lever }) => ({
      struck: [],
      steps: [() => (lever.unpullable as NonNullable<typeof lever.unpullable>)()],
    }),
  }),
  // ------------------------------------------------------------------------------------------- administrators
  define({
    name: 'delete-pods',
    about: 'somebody deletes pods, with or without force',
    lever: 'api',
    means: 'DELETE through the API',
    draw: (random) => ({ count: 1 + random.int(4), force: random.next() < 0.3 }),
    steps: ({ lever, parameters, random }) => ({
      struck: [],
      steps: [() => lever.deletePods(number(parameters, 'count', 1), { force: parameters['force'] === true }, random)],
    }),
  }),
  define({
    name: 'cordon',
    about: 'a node takes no new pods',
    lever: 'api',
    means: 'spec.unschedulable',
    draw: (random, target) => ({ whom: anyNode(random, target) }),
    strike: (lever, one) => lever.cordon(one),
  }),
  define({
    name: 'drain',
    about: 'a node is emptied: cordoned, its pods evicted or deleted',
    lever: 'api',
    means: 'spec.unschedulable, then evictions',
    draw: (random, target) => ({ whom: anyNode(random, target) }),
    strike: (lever, one) => lever.drain(one),
  }),
  define({
    name: 'certificate-expired',
    about: 'the certificate of a node has expired: it is refused and says why, until it joins again',
    lever: 'certificates',
    means: 'an expired certificate of the same authority in its place, its process begun anew',
    draw: (random, target) => ({ whom: anyNode(random, target) }),
    strike: (lever, one) => lever.expire(one),
  }),
  define({
    name: 'replace-master',
    about: 'a master is lost for good; it is removed and another one joins in its place',
    lever: 'members',
    means: 'capstan master remove, capstan master join',
    needs: 'replaceMaster',
    draw: () => ({ whom: 'follower:0' }),
    strike: (lever, one) => (lever.replaceMaster as NonNullable<typeof lever.replaceMaster>)(one),
  }),
  define({
    name: 'upgrade',
    about: 'a machine is given the next program, which knows one more version of the cluster',
    lever: 'members',
    needs: 'upgrade',
    means: 'stopped, then started as the next program',
    draw: () => ({ whom: 'all' }),
    strike: (lever, one) => (lever.upgrade as NonNullable<typeof lever.upgrade>)(one),
  }),
]

/** Cuts and heals in turns until it is undone. Its first cut is its proof. */
async function flap(target: Target, cut: readonly (() => Promise<Done>)[], offMs: number, onMs: number): Promise<Done> {
  let over = false
  let wake = () => undefined as void
  let times = 1
  let missed = 0
  const pause = (ms: number) =>
    new Promise<void>((resolve) => {
      const timer = target.access.clock.setTimer(ms, resolve)
      wake = () => {
        timer.cancel()
        resolve()
      }
    })
  let now: Done | undefined = await doAll(cut, true)
  const { proof } = now
  const loop = (async () => {
    for (;;) {
      await pause(offMs)
      await now?.undo()
      now = undefined
      if (over) return
      await pause(onMs)
      if (over) return
      // Where another fault cuts the same link there is nothing left to drop, and no proof: the next turn tries again.
      now = await doAll(cut, true).catch((error: unknown) => {
        if (error instanceof LeftInForce) throw error
        return undefined
      })
      if (now) times++
      else missed++
    }
  })()
  // Told when it is undone; nobody waits for it before.
  const failure = loop.then(
    () => undefined,
    (error: unknown) => error,
  )
  return {
    proof,
    undo: async () => {
      over = true
      wake()
      const error = await failure
      if (error !== undefined) throw error
      return `whole again, after ${times} cuts${missed > 0 ? `; ${missed} more took no effect` : ''}`
    },
  }
}

/** @throws Error that names those there are. */
export function faultNamed(name: string): Fault {
  const fault = FAULTS.find((one) => one.name === name)
  if (!fault) throw new RangeError(`there is no fault "${name}"; faults: ${FAULTS.map((one) => one.name).join(', ')}`)
  return fault
}

export type { InForce }
