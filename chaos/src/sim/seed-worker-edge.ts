/** Runs single seeds on behalf of `runner-edge.ts`: one process each, so that seeds use several cores. */
import { SCENARIOS } from './scenarios.js'
import type { ScenarioReport } from './scenario.js'

export interface SeedOrder {
  scenario: string
  seed: string
  bug?: string
  print?: boolean
  /** See `ScenarioOptions`. */
  only?: readonly number[]
  troubleMs?: number
}

export interface SeedResult {
  order: SeedOrder
  report?: ScenarioReport
  /** It did not come to a verdict: a failure. */
  error?: string
  wallMs: number
}

export async function runSeed(order: SeedOrder): Promise<SeedResult> {
  const started = performance.now()
  const scenario = SCENARIOS.find((s) => s.name === order.scenario)
  if (!scenario) throw new Error(`no scenario ${order.scenario}; scenarios: ${SCENARIOS.map((s) => s.name).join(', ')}`)
  try {
    const report = await scenario.run(order.seed, {
      ...(order.bug ? { bug: order.bug } : {}),
      ...(order.only ? { only: order.only } : {}),
      ...(order.troubleMs === undefined ? {} : { troubleMs: order.troubleMs }),
      ...(order.print ? { print: (line: string) => process.stdout.write(`${line}\n`) } : {}),
    })
    return { order, report, wallMs: performance.now() - started }
  } catch (error) {
    return {
      order,
      error: error instanceof Error ? (error.stack ?? error.message) : String(error),
      wallMs: performance.now() - started,
    }
  }
}

if (process.send) {
  process.on('message', (order: SeedOrder) => {
    void runSeed(order).then((result) => {
      if (process.connected) process.send?.(result)
    })
  })
}
