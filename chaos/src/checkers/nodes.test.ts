import assert from 'node:assert/strict'
import test from 'node:test'
import { checkFits, checkNoFalseEviction, checkNothingLeftOver } from './nodes.js'
import type { ApiObject, ObjectEvent } from './objects.js'

const pod = (uid: string, node?: string, cpu = '500m', phase = 'Running'): ApiObject => ({
  metadata: { name: `pod-${uid}`, uid },
  spec: {
    ...(node === undefined ? {} : { nodeName: node }),
    containers: [{ resources: { requests: { cpu, memory: '1Mi' } } }],
  },
  status: { phase },
})
const event = (revision: number, object: ApiObject): ObjectEvent => ({
  revision,
  key: `/registry/core/pods/default/${object.metadata.name}`,
  object,
})

test('pods that fit their node are right; one too many is found', () => {
  const history = ['1', '2', '3'].map((uid, at) => event(at + 1, pod(uid, 'n')))
  const seen = (uids: string[], cpuMilli: number, pods = 10) => ({
    atMs: 5,
    node: 'n',
    uids,
    allocatable: { cpuMilli, memoryBytes: 2 ** 30, pods },
  })
  assert.deepEqual(checkFits([seen(['1', '2'], 1000), seen(['1', '2', '3'], 1500)], history), [])
  assert.match(checkFits([seen(['1', '2', '3'], 1000)], history).join(), /cpuMilli 1500 of 1000/)
  assert.match(checkFits([seen(['1', '2', '3'], 2000, 2)], history).join(), /pods 3 of 2/)
})

const node = (revision: number, ...taints: string[]): ObjectEvent => ({
  revision,
  key: '/registry/core/nodes/n',
  object: { metadata: { name: 'n' }, spec: { taints: taints.map((key) => ({ key, effect: 'NoExecute' })) } },
})
const UNREACHABLE = 'node.kubernetes.io/unreachable'
const judge = (history: ObjectEvent[], absences: [number, number][]) =>
  checkNoFalseEviction(history, {
    absences: new Map([['n', absences]]),
    timeOf: (revision) => revision * 1000,
    graceMs: 4000,
    noticeMs: 1000,
  })

test('a node that was away may be marked, one that was there may not', () => {
  const history = [node(1), node(10, UNREACHABLE), node(12)]
  assert.deepEqual(judge(history, [[5000, 11_000]]), [])
  assert.deepEqual(judge(history, [[5000, 9500]]), [])
  assert.equal(judge(history, []).length, 1)
  assert.equal(judge(history, [[7000, 11_000]]).length, 1, 'away for less than the grace period')
  assert.equal(judge(history, [[1000, 8000]]).length, 1, 'back since long')
  assert.deepEqual(judge([node(1, 'node.kubernetes.io/not-ready'), node(2)], []), [], 'not ready yet')
  assert.deepEqual(judge([node(1), node(2, 'somebody.example/else')], []), [])
})

test('what runs must be what is asked for, where it is asked for', () => {
  const objects = new Map(
    [pod('1', 'a'), pod('2', 'b'), pod('3'), pod('4', 'a', '1', 'Succeeded')].map((p) => [
      `/registry/core/pods/default/${p.metadata.name}`,
      p,
    ]),
  )
  const running = (a: string[], b: string[]) => [
    { node: 'a', uids: a },
    { node: 'b', uids: b },
  ]
  assert.deepEqual(checkNothingLeftOver(running(['1'], ['2']), objects), [])
  assert.match(checkNothingLeftOver(running(['1', '9'], ['2']), objects).join(), /still runs pod 9, which is gone/)
  assert.match(checkNothingLeftOver(running(['1', '2'], ['2']), objects).join(), /which belongs elsewhere/)
  assert.match(checkNothingLeftOver(running([], ['2']), objects).join(), /pod-1 does not run on a/)
  assert.match(checkNothingLeftOver(running(['1', '4'], ['2']), objects).join(), /4/)
})
