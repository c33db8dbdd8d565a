import assert from 'node:assert/strict'
import { test } from 'node:test'
import { judge } from '../verdict/judge.js'
import { emptyRun, made } from '../verdict/testing.js'
import { difference, shortage, type View, type Wanted } from './desired-state.js'
import { type DesiredMore, desiredWorkload } from './desired-workload.js'
import { IdentityWatch } from './identity-watch.js'
import { type ApiBug, FakeApi } from './testing/fake-api.js'
import { Virtual } from './testing/virtual.js'

const LASTS_MS = 40_000

async function run(options: { bug?: ApiBug; trouble?: boolean } = {}) {
  const virtual = new Virtual('desired')
  const api = new FakeApi(virtual, options.bug)
  const { simulation } = virtual
  const trouble = async () => {
    await simulation.sleep(10_000)
    api.down.add('a1')
    api.loseWatches()
    await simulation.sleep(8000)
    api.down.clear()
  }
  const workload = desiredWorkload(() => ({ stores: [], apis: api.ports }))
  const access = virtual.access({ runtime: 'process', liveContainers: () => api.liveContainers() })
  const result = await virtual.play(workload, access, LASTS_MS, {
    use: { changeEveryMs: 3000 },
    ...(options.trouble ? { trouble } : {}),
  })
  const faults = options.trouble ? [made(0, 'kill', 10_000, 18_000)] : []
  const record = emptyRun({
    workloads: [result],
    faults,
    healedMs: LASTS_MS,
    endedMs: simulation.nowMs,
    mustHold: ['C1'],
  })
  return { result, more: result.more as unknown as DesiredMore, verdict: judge(record) }
}

test('a control plane that keeps its promises is found to keep them, in calm and in trouble', async () => {
  for (const trouble of [false, true]) {
    const { result, more, verdict } = await run({ trouble })
    const states = verdict.promises.filter((p) => p.state !== 'not tested').map((p) => [p.promise, p.state])
    assert.deepEqual(
      states,
      ['C1', 'C3', 'C4'].map((promise) => [promise, 'ok']),
      JSON.stringify(verdict, undefined, 1),
    )
    assert.ok(more.undesired.filter((span) => span.byChange).length > 5, 'changes show')
    assert.ok(result.history.some((record) => record.operation === 'change'))
    assert.ok((more.identity?.lives ?? 0) > 2 && (more.identity?.looks ?? 0) > 100)
    assert.deepEqual(more.last.map(({ endpoint }) => endpoint).sort(), ['a0', 'a1', 'a2'])
    assert.ok(result.series.some(({ name, points }) => name === 'pods ready' && points.some(([, n]) => n >= 6)))
  }
})

for (const [bug, promise, says] of [
  ['pod-left-over', 'C1', /has other pods|left over/],
  ['container-left-over', 'C1', /a container of pod web.* that pod is gone/],
  ['deployment-back', 'C1', /Deployment [^ ]+ is left over/],
  ['rebound', 'C4', /was bound to node-\d, then to node-7/],
  ['identity-twice', 'C3', / runs as uid-\d+ on node-\d .* and as uid-\d+ on node-9/],
] as const)
  test(`${bug} is found by ${promise}`, async () => {
    const { verdict } = await run({ bug })
    const found = verdict.promises.find((one) => one.promise === promise)
    assert.equal(found?.state, 'violated', JSON.stringify(found))
    assert.match(found.evidence.join('\n'), says)
  })

test('what is not there when a run is interrupted had no time to come: unknown, and no breach', async () => {
  const { result, more } = await run()
  const first = more.wanted[0] as Wanted
  first.replicas++
  const c1 = (interrupted: { interrupted?: true }) =>
    judge(emptyRun({ workloads: [result], ...interrupted })).promises.find(({ promise }) => promise === 'C1')
  assert.equal(c1({})?.state, 'violated')
  assert.equal(c1({ interrupted: true })?.state, 'unknown')
  assert.match(c1({ interrupted: true })?.text ?? '', /interrupted before its time to settle was over/)
})

test('what never comes keeps the run from beginning, with what is missing', async () => {
  await assert.rejects(run({ bug: 'pod-missing' }), /not there after 120 s: Deployment web has 2 of 3 pods ready/)
})

const wanted: Wanted[] = [{ kind: 'Deployment', name: 'web', replicas: 1, template: 2 }]
const owner = { kind: 'Deployment' as const, name: 'web', uid: 'd', owners: [], replicas: 1, template: 2 }
const set = { kind: 'ReplicaSet' as const, name: 'web-1', uid: 'r', owners: ['d'], replicas: 1, template: 2 }
const pod = {
  name: 'web-1-x',
  uid: 'p',
  app: 'web',
  owners: ['r'],
  template: 2,
  node: 'n',
  phase: 'Running',
  ready: true,
  deleting: false,
}
const fine: View = { owners: [owner, set], pods: [pod] }

test('the difference between what is wanted and what is there', () => {
  assert.deepEqual(difference(wanted, fine), [])
  const over = { ...pod, name: 'done', uid: 'q', phase: 'Failed', ready: false }
  assert.deepEqual(difference(wanted, { ...fine, pods: [pod, over] }), [], 'a pod that has ended is history')
  for (const [view, says] of [
    [{ ...fine, owners: [set] }, /web is missing.*its owner is gone/],
    [{ ...fine, owners: [{ ...owner, replicas: 3 }, set] }, /asks for 3 replicas of template 2; asked for were 1/],
    [{ ...fine, pods: [] }, /has 0 of 1 pods ready/],
    [{ ...fine, pods: [pod, { ...pod, name: 'second', uid: 'q' }] }, /has 2 of 1 pods ready/],
    [{ ...fine, pods: [{ ...pod, template: 1 }] }, /0 of 1 pods ready.*other pods: web-1-x on n \(ready, template 1\)/],
    [{ ...fine, pods: [pod, { ...pod, uid: 'q', deleting: true }] }, /other pods: .*terminating/],
    [{ ...fine, pods: [pod, { ...pod, app: 'gone', uid: 'q' }] }, /is left over/],
    [{ ...fine, owners: [owner, { ...set, owners: ['nobody'] }] }, /ReplicaSet web-1 is left over: its owner is gone/],
  ] as [View, RegExp][])
    assert.match(difference(wanted, view).join('; '), says)
})

test('what is missing, whatever is there besides', () => {
  assert.equal(shortage(wanted, [pod, { ...pod, uid: 'q', deleting: true }]), undefined)
  assert.equal(shortage(wanted, [{ ...pod, deleting: true }]), 'Deployment web has 0 of 1 pods ready')
  assert.equal(shortage(wanted, [{ ...pod, ready: false }]), 'Deployment web has 0 of 1 pods ready')
})

test('kubelets that tell of two lives at once are found where nobody sees the process table', () => {
  const at = (second: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString()
  const ended = { containerStatuses: [{ state: { terminated: { startedAt: at(0), finishedAt: at(20) } } }] }
  const running = (second: number) => ({ containerStatuses: [{ state: { running: { startedAt: at(second) } } }] })
  const judged = (second: number) => {
    const watch = new IdentityWatch()
    watch.told('db-0', 'u1', 'n1', ended)
    watch.told('db-0', 'u2', 'n2', running(second))
    watch.told('db-1', 'u3', 'n2', running(3))
    return watch.evidence(false).doubles
  }
  assert.deepEqual(judged(20), [])
  assert.match(judged(15).join(), /u1 on n1 ended at .*20.000Z, u2 on n2 had begun at .*15.000Z/)
})
