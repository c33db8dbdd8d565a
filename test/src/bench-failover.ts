/** `npm run bench -- failover [--kills N] [--quiet-minutes M]`: gap in writes after kill -9 of the leading master; elections without cause. */
import { ClusterUnderTest, eventually, type MasterStatus } from './cluster-under-test.js'
import { describeMachine, median } from './bench-report.js'
import { HttpsClient } from './https-client.js'
import { longestGapMs, WriteLoad } from './write-load.js'

const WRITES_PER_SECOND = 250
const OBSERVE_MS = 4000

export async function benchFailover(options: { kills: number; quietMinutes: number }): Promise<void> {
  console.log(describeMachine())
  const cluster = await ClusterUnderTest.up({ flags: ['--nodes', '0', '--runtime', 'hollow', '--port', '7443'] })
  try {
    await cluster.must(['create', 'namespace', 'load'])
    const gaps: number[] = []
    /** Those of kills during which no member's disk stalled. */
    const calmGaps: number[] = []
    let acknowledged = 0
    let missing = 0
    for (let kill = 1; kill <= options.kills; kill++) {
      const before = await eventually(
        'three masters up',
        async () => {
          const status = await cluster.status()
          return status.masters.every((m) => m.role !== 'down') && status.masters.some((m) => m.role === 'leader')
            ? status
            : undefined
        },
        { timeoutMs: 30_000 },
      )
      const leader = before.masters.find((m) => m.role === 'leader')
      if (!leader) throw new Error('no leader')
      const others = before.masters.filter((m) => m !== leader).map((m) => m.url)
      const load = new WriteLoad(cluster.kubeconfig, others, {
        perSecond: WRITES_PER_SECOND,
        namespace: 'load',
        prefix: `k${kill}`,
      })
      await eventually('a steady load', async () => load.acknowledged.length > WRITES_PER_SECOND, { timeoutMs: 20_000 })
      const killedMs = performance.now()
      process.kill(-leader.pid, 'SIGKILL')
      await new Promise((resolve) => setTimeout(resolve, OBSERVE_MS))
      await load.stop()
      const gap = longestGapMs(load.acknowledged, killedMs, killedMs + OBSERVE_MS - 500)
      gaps.push(gap)
      const stalls = slowSyncs((await cluster.status()).masters, leader.name) - slowSyncs(before.masters, leader.name)
      if (stalls === 0) calmGaps.push(gap)
      acknowledged += load.acknowledged.length
      await cluster.capstan(['machine', 'start', leader.name])
      missing += await countMissing(cluster, load)
      console.log(
        `kill ${String(kill).padStart(2)}: ${leader.name}, gap in writes ${gap.toFixed(0)} ms, ${load.acknowledged.length} acknowledged, ${load.failed} not, ${stalls} syncs over 200 ms`,
      )
    }
    console.log(
      `gap in writes over ${gaps.length} kills: median ${median(gaps).toFixed(0)} ms, worst ${Math.max(...gaps).toFixed(0)} ms; worst of the ${calmGaps.length} kills without a stalled disk ${Math.max(...calmGaps).toFixed(0)} ms`,
    )
    console.log(`acknowledged ${acknowledged}, missing afterwards ${missing} (each read through every master)`)
    if (options.quietMinutes > 0) await quiet(cluster, options.quietMinutes)
    if (missing > 0) process.exitCode = 1
  } finally {
    await cluster.down()
  }
}

const slowSyncs = (masters: readonly MasterStatus[], killed: string): number =>
  masters.filter((m) => m.name !== killed).reduce((sum, m) => sum + m.slowSyncs, 0)

/** Reads every acknowledged object back through every master. */
async function countMissing(cluster: ClusterUnderTest, load: WriteLoad): Promise<number> {
  const status = await eventually(
    'three masters up',
    async () => {
      const now = await cluster.status()
      return now.masters.every((m) => m.role !== 'down') ? now : undefined
    },
    { timeoutMs: 30_000 },
  )
  let missing = 0
  for (const master of status.masters) {
    const names = await eventually(
      `a list from ${master.name}`,
      async () => {
        const client = new HttpsClient(cluster.kubeconfig, master.url)
        try {
          const { status: code, body } = await client.request(
            'GET',
            '/api/v1/namespaces/load/configmaps',
            undefined,
            20_000,
          )
          if (code !== 200) return undefined
          return new Set(
            (JSON.parse(body) as { items: { metadata: { name: string } }[] }).items.map((i) => i.metadata.name),
          )
        } finally {
          client.close()
        }
      },
      { timeoutMs: 60_000 },
    )
    for (const { name } of load.acknowledged) if (!names.has(name)) missing++
  }
  const client = new HttpsClient(cluster.kubeconfig)
  await client.request('DELETE', '/api/v1/namespaces/load/configmaps', undefined, 60_000)
  client.close()
  return missing
}

/** Counts elections over some minutes of load without a fault: the term must stay what it is. */
async function quiet(cluster: ClusterUnderTest, minutes: number): Promise<void> {
  const before = await cluster.status()
  const load = new WriteLoad(
    cluster.kubeconfig,
    before.masters.map((m) => m.url),
    { perSecond: WRITES_PER_SECOND, namespace: 'load', prefix: 'quiet' },
  )
  await new Promise((resolve) => setTimeout(resolve, minutes * 60_000))
  await load.stop()
  const after = await cluster.status()
  const elections = Math.max(...after.masters.map((m) => m.term)) - Math.max(...before.masters.map((m) => m.term))
  console.log(
    `${minutes} minutes of ${WRITES_PER_SECOND} writes/s without a fault: ${elections} elections, ${load.acknowledged.length} acknowledged, ${load.failed} not`,
  )
  if (elections > 0) process.exitCode = 1
}
