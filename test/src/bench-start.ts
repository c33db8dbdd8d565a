/** `npm run bench -- start`: time from the first process of `capstan up` to all nodes Ready, and memory when idle. */
import { ClusterUnderTest } from './cluster-under-test.js'
import { describeMachine, median, memoryOf } from './bench-report.js'

export async function benchStart(options: { runs: number; idleSeconds: number }): Promise<void> {
  console.log(describeMachine())
  const seconds: number[] = []
  for (let run = 1; run <= options.runs; run++) {
    const cluster = await ClusterUnderTest.up()
    const begun = secondsAt(cluster.told, 'starting')
    const ready = secondsAt(cluster.told, '✔ ready')
    seconds.push(ready - begun)
    console.log(
      `run ${run}: all nodes Ready ${seconds.at(-1)?.toFixed(1)} s after the first process, ${ready.toFixed(1)} s after the command`,
    )
    try {
      if (run === options.runs) {
        await new Promise((resolve) => setTimeout(resolve, options.idleSeconds * 1000))
        reportMemory(cluster.data, options.idleSeconds)
      }
    } finally {
      await cluster.down()
    }
  }
  console.log(
    `time from the first process (certificates, images and network are set up before it) to all Ready over ${seconds.length} runs: median ${median(seconds).toFixed(2)} s, worst ${Math.max(...seconds).toFixed(2)} s`,
  )
}

/** Seconds after its beginning at which `up` told of a step. */
function secondsAt(told: string, step: string): number {
  const line = told.split('\n').find((each) => each.includes(`s  ${step}`))
  if (line === undefined) throw new Error(`up told nothing of "${step}":\n${told}`)
  return Number.parseFloat(line)
}

function reportMemory(directory: string, idleSeconds: number): void {
  const all = memoryOf(directory)
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`
  const ours = all.filter((p) => /^(\S*\/)?(node|nats-server)\b/.test(p.command))
  const others = all.filter((p) => !ours.includes(p))
  const sum = (list: typeof all) => list.reduce((total, p) => total + p.pssBytes, 0)
  for (const process of ours) console.log(`  ${mib(process.pssBytes).padStart(8)}  ${process.command.slice(0, 140)}`)
  console.log(`PSS after ${idleSeconds} s idle: ${mib(sum(ours))} in ${ours.length} Node processes and nats-servers`)
  console.log(`  beside them containerd and shims: ${mib(sum(others))} in ${others.length} processes`)
}
