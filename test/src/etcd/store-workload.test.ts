/** The chaos harness's store workload against a real store behind its etcd faces, and the judge's verdict. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type Access, connectTo, judge, type RunRecord, storeWorkload } from '@capstan/chaos'
import { RealClock } from '@capstan/real'
import { SimRandom } from '@capstan/sim'
import { FaceCluster } from './face-cluster.js'

/** Under load this is all there is time for: a killed leader in the middle of it. */
const OPERATIONS_BEFORE = 60
const OPERATIONS_AFTER = 120
const PATIENCE_MS = 60_000

describe('the store workload on real faces', () => {
  let cluster: FaceCluster
  before(async () => {
    cluster = await FaceCluster.start()
  })
  after(() => cluster?.end())

  function access(): Access {
    const pem = (name: string) => readFileSync(join(cluster.directory, name), 'utf8')
    const beganMs = performance.now()
    return {
      on: 'local',
      kubeconfig: '',
      balancer: { name: 'none', url: '' },
      apiEndpoints: [],
      apiCredentials: {},
      etcdEndpoints: cluster.members.map((member) => ({
        member,
        address: cluster.endpoint(member).replace('https://', ''),
      })),
      etcdCredentials: { ca: pem('ca.crt'), cert: pem('client.crt'), key: pem('client.key') },
      nodes: [],
      runtime: 'hollow',
      reachesPods: false,
      nowMs: () => performance.now() - beganMs,
      clock: new RealClock(),
    }
  }

  test('a leader that dies under it: every promise of the store is looked at and holds', async () => {
    const target = access()
    const running = await storeWorkload(connectTo).start(target, new SimRandom('faces'), { pauseMs: 10 })
    const answered = async (count: number) => {
      const deadlineMs = target.nowMs() + PATIENCE_MS
      while ((running.look().counters['requests'] ?? 0) < count) {
        assert.ok(target.nowMs() < deadlineMs, `${count} requests in ${PATIENCE_MS} ms`)
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }
    await answered(OPERATIONS_BEFORE)
    const leader = await cluster.leader()
    const askedMs = target.nowMs()
    await cluster.kill(leader)
    const inForceMs = target.nowMs()
    await answered(OPERATIONS_BEFORE + OPERATIONS_AFTER)
    const undoAskedMs = target.nowMs()
    await cluster.startMember(leader, 'existing')
    const undoneMs = target.nowMs()
    await running.settle?.()
    const workload = await running.stop()
    const run: Omit<RunRecord, 'verdict'> = {
      formatVersion: 1,
      scenario: 'faces',
      about: '',
      on: 'local',
      target: '',
      seed: '',
      startedAt: '',
      environment: {},
      machines: [],
      mustHold: ['S1', 'S2', 'S3', 'S4', 'S5'],
      warmUpMs: 0,
      troubleMs: 0,
      settleMs: 10_000,
      healedMs: undoneMs,
      endedMs: target.nowMs(),
      schedule: { formatVersion: 1, faults: [] },
      faults: [
        {
          index: 0,
          fault: 'kill',
          parameters: {},
          result: 'made',
          struck: [leader],
          askedMs,
          inForceMs,
          undoAskedMs,
          undoneMs,
        },
      ],
      notTested: [],
      workloads: [workload],
      samples: [],
      finalState: { atMs: target.nowMs(), objects: [], lacks: [] },
      troubles: [],
    }
    const verdict = judge(run)
    assert.equal(verdict.state, 'ok', JSON.stringify(verdict.promises, undefined, 1))
    assert.ok((verdict.recoveries[0]?.firstWriteMs ?? Number.POSITIVE_INFINITY) < PATIENCE_MS)
    // What the workload wrote it has taken away.
    const port = connectTo(target).stores[0]?.open()
    const left = await port?.range('/chaos/', '/chaos0')
    port?.close()
    assert.ok(left?.ok && left.value.keys.length === 0)
  })
})
