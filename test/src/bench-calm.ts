/** `npm run bench -- calm [--minutes N]`: full CPU, a nats-server that dies, pauses of 3 s: no node may be marked, no leader change for it. */
import { spawn } from 'node:child_process'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { readFileSync } from 'node:fs'
import { machineCommand } from '@capstan/cli'
import { describeMachine } from './bench-report.js'
import { type ClusterStatus, ClusterUnderTest, exec } from './cluster-under-test.js'

const PAUSE_MS = 3000
const term = (status: ClusterStatus) => Math.max(...status.masters.map((m) => m.term))

export async function benchCalm(options: { minutes: number }): Promise<void> {
  console.log(describeMachine())
  const cluster = await ClusterUnderTest.up({ flags: ['--port', '7443'] })
  const hogs = cpus().map(() => spawn(process.execPath, ['-e', 'for(;;);'], { stdio: 'ignore' }))
  const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
  // Every change of a node's readiness from here on.
  const watch = spawn('kubectl', ['--kubeconfig', cluster.kubeconfig, 'get', 'nodes', '-w', '--no-headers'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  let seen = ''
  watch.stdout.on('data', (chunk: Buffer) => {
    seen += chunk.toString()
  })
  try {
    const before = await cluster.status()
    const until = performance.now() + options.minutes * 60_000
    const machines = [...before.masters.map((m) => m.name), ...before.nodes.map((n) => n.name)]
    let round = 0
    let longestPauseMs = 0
    while (performance.now() < until) {
      const machine = machines[round % machines.length] as string
      const isLeader = (await cluster.status()).masters.some((m) => m.name === machine && m.role === 'leader')
      // A leading store that stands still for 3 s must lose its office: its API server is paused instead of the machine.
      const what = isLeader ? 'its leader process' : 'the machine'
      console.log(`round ${round + 1}: pausing ${machine} (${what}) for ${PAUSE_MS / 1000} s`)
      if (isLeader) {
        const pid = (await cluster.status()).masters.find((m) => m.name === machine)?.pid as number
        process.kill(pid, 'SIGSTOP')
        await wait(PAUSE_MS)
        process.kill(pid, 'SIGCONT')
      } else {
        // From this process: a command that has to start takes seconds where all processors are taken, and the pause with it.
        await machineCommand(cluster.data, 'pause', machine)
        const pausedMs = performance.now()
        await wait(PAUSE_MS)
        await machineCommand(cluster.data, 'resume', machine)
        longestPauseMs = Math.max(longestPauseMs, performance.now() - pausedMs)
      }
      if (round % 3 === 1) {
        const bus = (
          JSON.parse(readFileSync(join(cluster.data, 'run', 'master-1-nats.json'), 'utf8')) as { pid: number }
        ).pid
        console.log(`round ${round + 1}: killing the nats-server of master-1 (${bus})`)
        process.kill(bus, 'SIGKILL')
      }
      await wait(8000)
      round++
    }
    const after = await cluster.status()
    const events = await exec('kubectl', [
      '--kubeconfig',
      cluster.kubeconfig,
      'get',
      'events',
      '-A',
      '--field-selector',
      'reason=NodeNotReady',
      '--no-headers',
    ])
    const marked = seen.split('\n').filter((line) => /\bNotReady\b/.test(line))
    console.log(
      `${options.minutes} minutes, ${round} pauses (the longest took ${(longestPauseMs / 1000).toFixed(1)} s): ${marked.length} false marks of nodes, term ${term(before)} before and ${term(after)} after`,
    )
    if (marked.length > 0 || events.stdout.trim() !== '') {
      console.log([...marked, events.stdout].join('\n'))
      process.exitCode = 1
    }
  } finally {
    for (const hog of hogs) hog.kill('SIGKILL')
    watch.kill()
    await cluster.down()
  }
}
