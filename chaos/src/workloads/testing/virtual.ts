import type { Clock } from '@capstan/actor'
import { Simulation } from '@capstan/sim'
import type { Access, Running, Workload, WorkloadResult } from '../../harness/types.js'

/** Virtual time for workloads against a service in memory. */
export class Virtual {
  readonly simulation: Simulation
  readonly clock: Clock

  constructor(seed: string) {
    const simulation = new Simulation({ seed })
    this.simulation = simulation
    this.clock = {
      nowMs: () => Math.floor(simulation.nowMs),
      monotonicMs: () => simulation.nowMs,
      setTimer: (delayMs, run) => {
        const event = simulation.at(simulation.nowMs + Math.max(0, delayMs), run)
        return { cancel: () => void (event.cancelled = true) }
      },
      defer: (run) => void simulation.at(simulation.nowMs, run),
    }
  }

  access(more: Partial<Access> = {}): Access {
    return {
      on: 'local',
      kubeconfig: '',
      balancer: { name: 'balancer', url: '' },
      apiEndpoints: [],
      apiCredentials: {},
      etcdEndpoints: [],
      nodes: [],
      runtime: 'hollow',
      reachesPods: false,
      nowMs: () => this.simulation.nowMs,
      clock: this.clock,
      ...more,
    }
  }

  /** Runs a workload for so long, lets it settle, and ends it. `trouble` is played meanwhile. */
  async play(
    workload: Workload,
    access: Access,
    lastsMs: number,
    options: { trouble?: () => Promise<void>; use?: Parameters<Workload['start']>[2] } = {},
  ): Promise<WorkloadResult> {
    const { simulation } = this
    let result: WorkloadResult | undefined
    let failure: unknown
    const go = async () => {
      const running: Running = await workload.start(access, simulation.random.fork('workload'), options.use)
      const trouble = options.trouble?.()
      await simulation.sleep(lastsMs)
      await trouble
      await running.settle?.()
      result = await running.stop()
    }
    go().catch((error: unknown) => {
      failure = error
    })
    await simulation.run({
      until: () => result !== undefined || failure !== undefined,
      untilMs: lastsMs + 300_000,
      what: 'the workload ends',
    })
    if (failure !== undefined) throw failure
    return result as WorkloadResult
  }
}
