/**
 * The story of Capstan, told on a real cluster: every step is asserted, and the time that it took stands beside it.
 * Exit code 0 only if all held. Run by `npm run demo`.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { Command } from 'commander'
import pc from 'picocolors'
import { ClusterUnderTest, eventually, exec, ROOT } from './cluster-under-test.js'

interface PodList {
  items: {
    metadata: { name: string; deletionTimestamp?: string }
    spec: { nodeName?: string }
    status: { phase?: string; podIP?: string; conditions?: { type: string; status: string }[] }
  }[]
}

new Command('npm run demo --')
  .description('the story of Capstan on a real cluster, step by step; exit code 0 only if all held')
  .parse()

const say = (text: string) => process.stdout.write(`${text}\n`)

async function step<T>(title: string, act: () => Promise<T>): Promise<T> {
  const started = performance.now()
  process.stdout.write(`${pc.cyan('▶')} ${title} `)
  try {
    const result = await act()
    say(`${pc.green('✔')} ${pc.dim(`${((performance.now() - started) / 1000).toFixed(2)} s`)}`)
    return result
  } catch (error) {
    say(pc.red('✘'))
    throw error
  }
}

const isReady = (pod: PodList['items'][number]) =>
  !pod.metadata.deletionTimestamp &&
  (pod.status.conditions ?? []).some((c) => c.type === 'Ready' && c.status === 'True')

async function story(cluster: ClusterUnderTest): Promise<void> {
  const pods = async () => (await cluster.json<PodList>(['get', 'pods', '-l', 'app=nginx'])).items
  const readyPods = async () => (await pods()).filter(isReady)

  await step('three nodes are Ready', () =>
    eventually('3 Ready nodes', async () => (await cluster.status()).nodes.filter((n) => n.ready).length === 3, {
      timeoutMs: 20_000,
    }),
  )
  await step('kubectl apply -f examples/nginx.yaml, rollout status', async () => {
    await cluster.must(['apply', '-f', join(ROOT, 'examples/nginx.yaml')])
    await cluster.must(['rollout', 'status', 'deployment/nginx', '--timeout=60s'], { timeoutMs: 70_000 })
  })
  await step('kubectl scale --replicas=5: five pods run on all three nodes', async () => {
    await cluster.must(['scale', 'deployment/nginx', '--replicas=5'])
    await cluster.must(['rollout', 'status', 'deployment/nginx', '--timeout=60s'], { timeoutMs: 70_000 })
    assert.equal(new Set((await readyPods()).map((p) => p.spec.nodeName)).size, 3)
  })
  const clusterIp = await step('kubectl expose, curl to the cluster IP: nginx answers', async () => {
    await cluster.must(['expose', 'deployment/nginx', '--port=80'])
    const service = await cluster.json<{ spec: { clusterIP: string } }>(['get', 'service', 'nginx'])
    await eventually('an answer of nginx', async () => (await curl(service.spec.clusterIP)).code === 0, {
      timeoutMs: 10_000,
    })
    return service.spec.clusterIP
  })

  const leader = (await cluster.status()).masters.find((m) => m.role === 'leader')
  assert.ok(leader, 'a leading master')
  await step(`kill -9 of the leading master (${leader.name}): the next write is acknowledged`, async () => {
    process.kill(-leader.pid, 'SIGKILL')
    await eventually(
      'a write',
      async () =>
        (await cluster.kubectl(['create', 'configmap', `after-${leader.name}`, '--from-literal=a=b'])).code === 0,
      { timeoutMs: 10_000 },
    )
  })

  const victim = (await readyPods())[0]?.spec.nodeName
  assert.ok(victim, 'a node with a pod')
  await step(`kill of ${victim} with its containers: five pods run elsewhere`, async () => {
    assert.equal((await cluster.capstan(['machine', 'kill', victim])).code, 0)
    await eventually(
      '5 ready pods elsewhere',
      async () => (await readyPods()).filter((p) => p.spec.nodeName !== victim).length === 5,
      {
        timeoutMs: 20_000,
      },
    )
  })
  await step('the Service answers, with at most one retry for each request', async () => {
    for (let i = 0; i < 20; i++) {
      const first = await curl(clusterIp)
      assert.ok(first.code === 0 || (await curl(clusterIp)).code === 0, `request ${i} failed twice: ${first.stderr}`)
    }
  })
  await step('both machines are started again: everything is Ready', async () => {
    assert.equal((await cluster.capstan(['machine', 'start', leader.name])).code, 0)
    assert.equal((await cluster.capstan(['machine', 'start', victim])).code, 0)
    await eventually(
      '3 masters and 3 nodes',
      async () => {
        const status = await cluster.status()
        return status.masters.every((m) => m.role !== 'down') && status.nodes.every((n) => n.ready)
      },
      { timeoutMs: 30_000 },
    )
  })
  await step('kubectl delete: nothing is left over', async () => {
    await cluster.must(['delete', 'service/nginx', 'deployment/nginx'], { timeoutMs: 60_000 })
    await eventually('no pods', async () => (await pods()).length === 0, { timeoutMs: 40_000 })
  })
}

function curl(address: string) {
  return exec('curl', ['-sS', '--max-time', '2', '-o', '/dev/null', '-f', `http://${address}/`], { timeoutMs: 5000 })
}

let cluster: ClusterUnderTest | undefined
try {
  cluster = await step('capstan up: three masters, three nodes', () => ClusterUnderTest.up())
  const running = cluster
  await story(running)
  await step('capstan stop', () => running.down())
  cluster = undefined
  say(pc.green('all held'))
} catch (error) {
  say(pc.red(error instanceof Error ? (error.stack ?? error.message) : String(error)))
  process.exitCode = 1
} finally {
  await cluster?.down()
}
