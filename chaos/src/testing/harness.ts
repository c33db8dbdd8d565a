/** For tests of the harness: a clock that jumps from timer to timer, and a target that only pretends. */
import type { Clock, Timer } from '@capstan/actor'
import type { Component, Done, HistoryRecord, Judge, Machine, Target, Workload } from '../harness/types.js'

/** Virtual time: runs the next timer when nothing else is left to do. */
export class JumpingClock implements Clock {
  private now = 0
  private timers: { atMs: number; order: number; run: () => void }[] = []
  private order = 0

  nowMs(): number {
    return 1_700_000_000_000 + Math.floor(this.now)
  }

  monotonicMs(): number {
    return this.now
  }

  setTimer(delayMs: number, run: () => void): Timer {
    const timer = { atMs: this.now + Math.max(0, delayMs), order: this.order++, run }
    this.timers.push(timer)
    return {
      cancel: () => {
        this.timers = this.timers.filter((one) => one !== timer)
      },
    }
  }

  defer(run: () => void): void {
    setImmediate(run)
  }

  /** Until `promise` is settled. @throws Error if nothing is left that could settle it. */
  async until<T>(promise: Promise<T>): Promise<T> {
    let settled = false
    const seen = promise.finally(() => {
      settled = true
    })
    seen.catch(() => undefined)
    let idle = 0
    while (!settled) {
      await new Promise((resolve) => setImmediate(resolve))
      if (settled) break
      const next = this.timers.sort((a, b) => a.atMs - b.atMs || a.order - b.order)[0]
      if (!next) {
        if (++idle > 100) throw new Error(`at ${this.now} ms nothing is left to happen`)
        continue
      }
      idle = 0
      this.timers = this.timers.filter((one) => one !== next)
      this.now = next.atMs
      next.run()
    }
    return seen
  }
}

export interface FakeTargetOptions {
  /** This lever's method throws: the fault does not bite. */
  broken?: 'kill' | 'pause'
  /** What was done cannot be undone. */
  stuck?: boolean
}

/** Three masters and two nodes that are nothing but names; `log` tells what was done to them. */
export class FakeTarget implements Target {
  readonly kind = 'local'
  readonly description = 'a pretence'
  readonly machines: readonly Machine[] = [
    ...['master-0', 'master-1', 'master-2'].map((name) => ({
      name,
      role: 'master' as const,
      zone: name === 'master-2' ? 'b' : 'a',
    })),
    ...['node-0', 'node-1'].map((name) => ({ name, role: 'node' as const, zone: 'a' })),
  ]
  readonly clock = new JumpingClock()
  readonly log: string[] = []
  readonly down = new Map<string, string>()
  readonly access: Target['access'] = {
    on: 'local',
    kubeconfig: '',
    balancer: { name: 'balancer', url: 'https://127.0.0.1:1' },
    apiEndpoints: [],
    apiCredentials: {},
    etcdEndpoints: [],
    nodes: ['node-0', 'node-1'],
    runtime: 'hollow',
    reachesPods: false,
    nowMs: () => this.clock.monotonicMs(),
    clock: this.clock,
  }
  readonly levers: Target['levers']
  readonly lacks = { network: 'pretences have no network' }

  constructor(private readonly options: FakeTargetOptions = {}) {
    const strike = (what: 'kill' | 'pause') => async (machine: string, component: Component) =>
      this.strike(what, machine, component)
    this.levers = { processes: { kill: strike('kill'), pause: strike('pause'), restart: strike('kill') } }
  }

  get leader(): string | undefined {
    return this.machines.find(({ name, role }) => role === 'master' && !this.down.has(name))?.name
  }

  async look() {
    const { leader } = this
    return {
      revision: 1,
      ...(leader === undefined ? {} : { leader, term: 1 }),
      masters: this.machines
        .filter((one) => one.role === 'master')
        .map(({ name }) => ({ name, up: !this.down.has(name) })),
      nodes: this.machines
        .filter((one) => one.role === 'node')
        .map(({ name }) => ({ name, ready: !this.down.has(name) })),
    }
  }

  async finalState() {
    return { atMs: this.clock.monotonicMs(), objects: [], lacks: [] }
  }

  async clear() {
    this.log.push('cleared')
    return []
  }

  private async strike(what: 'kill' | 'pause', machine: string, component: Component): Promise<Done> {
    if (this.options.broken === what) throw new Error(`${machine} does not care`)
    const at = () => Math.round(this.clock.monotonicMs())
    this.log.push(`${at()} ${what} ${machine} ${component}`)
    this.down.set(machine, what)
    return {
      proof: `${machine} is gone`,
      undo: async () => {
        if (this.options.stuck) throw new Error('it is stuck')
        this.log.push(`${at()} undo ${what} ${machine}`)
        this.down.delete(machine)
        return `${machine} is back`
      },
    }
  }
}

/** Writes every 100 ms while a majority is up. `loses`: acknowledged writes vanish while this holds (a planted bug). */
export function fakeWorkload(target: FakeTarget, loses: (target: FakeTarget) => boolean = () => false): Workload {
  return {
    name: 'fake',
    about: 'pretends to write',
    promises: ['S1'],
    lack: () => undefined,
    async start({ clock, nowMs }) {
      const history: HistoryRecord[] = []
      const lost: string[] = []
      let over = false
      const write = () => {
        if (over) return
        const up = target.machines.filter(({ name, role }) => role === 'master' && !target.down.has(name)).length
        const key = `key-${history.length}`
        if (loses(target)) lost.push(key)
        history.push({
          process: 'p',
          operation: 'put',
          key,
          invokedMs: nowMs(),
          ...(up >= 2
            ? { outcome: 'ok', returnedMs: nowMs(), revision: history.length }
            : { outcome: 'did-not-happen' }),
        })
        clock.setTimer(100, write)
      }
      write()
      return {
        look: () => ({ counters: { acknowledged: history.length }, wrong: [] }),
        isAsDesired: async () => (target.down.size > 0 ? `${[...target.down.keys()].join(', ')} down` : undefined),
        async stop() {
          over = true
          const violations = lost.slice(0, 1).map((key) => ({ promise: 'S1', text: `${key} is lost`, evidence: [key] }))
          return { workload: 'fake', history, watches: [], counters: {}, series: [], violations }
        },
      }
    },
  }
}

export const fakeJudge: Judge = (run) => {
  const found = run.workloads.flatMap((workload) => workload.violations)
  const state = found.length > 0 ? 'violated' : 'ok'
  return {
    state,
    promises: [{ promise: 'S1', state, text: found[0]?.text ?? 'all there', evidence: [] }],
    recoveries: [],
    requests: { total: 0, failed: 0 },
  }
}
