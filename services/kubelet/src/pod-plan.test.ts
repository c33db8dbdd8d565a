import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { Pod } from './kinds.js'
import { decidePodActions } from './pod-plan.js'
import { podStatusOf } from './pod-status.js'
import { Forgotten, makePod, PlannedPod } from './testing/pods.js'

const statusOf = (planned: PlannedPod) =>
  podStatusOf(
    {
      pod: planned.pod as Pod,
      contents: planned.contents,
      memory: planned.memory,
      backoffs: planned.plan?.backoffs ?? new Map(),
      hostIp: '10.0.0.1',
      runtime: 'hollow',
    },
    planned.nowMs,
  )

describe('a pod comes up', () => {
  test('volumes, sandbox, containers, then rest', () => {
    const planned = new PlannedPod(
      makePod({
        containers: [
          { name: 'a', image: 'x' },
          { name: 'b', image: 'y' },
        ],
      }),
    )
    assert.deepEqual(planned.settle(), ['prepare-volumes', 'start-sandbox 0', 'start a 0', 'start b 0'])
    assert.equal(statusOf(planned).phase, 'Running')
  })

  test('init containers one after the other; a sidecar stays', () => {
    const planned = new PlannedPod(
      makePod({
        initContainers: [
          { name: 'i1', image: 'x' },
          { name: 'side', image: 'x', restartPolicy: 'Always' },
          { name: 'i2', image: 'x' },
        ],
      }),
    )
    planned.settle()
    assert.deepEqual(
      planned.contents.containers.map((one) => one.name),
      ['i1'],
    )
    assert.equal(statusOf(planned).phase, 'Pending')
    planned.exit('i1', 0)
    planned.settle()
    assert.deepEqual(
      planned.contents.containers.map((one) => one.name),
      ['i1', 'side', 'i2'],
    )
    planned.exit('i2', 0)
    assert.deepEqual(planned.settle(), ['start c 0'])
    assert.equal(statusOf(planned).phase, 'Running')
    assert.equal(statusOf(planned).conditions?.find((one) => one.type === 'Initialized')?.status, 'True')
  })

  test('an init container that failed is tried again, or ends the pod that may not', () => {
    const retried = new PlannedPod(makePod({ initContainers: [{ name: 'i', image: 'x' }] }))
    retried.settle()
    retried.exit('i', 1)
    assert.deepEqual(retried.step(), ['start i 1'])
    const never = new PlannedPod(makePod({ restartPolicy: 'Never', initContainers: [{ name: 'i', image: 'x' }] }))
    never.settle()
    never.exit('i', 1)
    assert.deepEqual(never.step(), ['stop-sandbox'])
    assert.equal(statusOf(never).phase, 'Failed')
  })

  test('a pod that was not admitted starts nothing', () => {
    const planned = new PlannedPod(makePod())
    planned.memory.admission = 'waiting'
    assert.deepEqual(planned.settle(), [])
    planned.memory.admission = { reason: 'OutOfcpu', message: 'no' }
    assert.deepEqual(planned.settle(), [])
    assert.equal(statusOf(planned).phase, 'Failed')
    assert.equal(statusOf(planned).reason, 'OutOfcpu')
    assert.equal(planned.plan?.ended, true)
  })

  test('what is being done is not done again', () => {
    const planned = new PlannedPod(makePod())
    planned.memory.inFlight.add('prepare-volumes')
    assert.deepEqual(planned.step(), [])
  })

  for (const [when, laterMs] of [
    ['its time has come', 500],
    ['the clock was set back', -1000],
  ] as const)
    test(`what failed a moment ago is done again when ${when}`, () => {
      const planned = new PlannedPod(makePod())
      planned.memory.failures.set('prepare-volumes', {
        count: 1,
        atMs: planned.nowMs,
        retryAtMs: planned.nowMs + 500,
        reason: '',
        message: '',
      })
      assert.deepEqual(planned.step(), [])
      assert.equal(planned.plan?.wakeAtMs, planned.nowMs + 500)
      planned.nowMs += laterMs
      assert.deepEqual(planned.step(), ['prepare-volumes'])
    })
})

describe('restarts', () => {
  test('at once, then after 10 s, 20 s, … 5 min; 10 calm minutes begin anew', () => {
    const planned = new PlannedPod(makePod())
    planned.settle()
    const waits: number[] = []
    for (let restart = 1; restart <= 8; restart++) {
      planned.exit('c', 1)
      const actions = planned.step()
      if (actions.length === 0) {
        assert.equal(statusOf(planned).containerStatuses?.[0]?.state.waiting?.reason, 'CrashLoopBackOff')
        assert.equal(statusOf(planned).phase, 'Running')
        const waitMs = (planned.plan?.wakeAtMs ?? 0) - planned.nowMs
        waits.push(waitMs / 1000)
        planned.nowMs += waitMs - 1
        assert.deepEqual(planned.step(), [])
        planned.nowMs += 1
        assert.deepEqual(planned.step(), [`start c ${restart}`])
      } else waits.push(0)
      planned.settle()
    }
    assert.deepEqual(waits, [0, 10, 20, 40, 80, 160, 300, 300])
    planned.nowMs += 600_000
    planned.exit('c', 1)
    assert.deepEqual(planned.step(), ['start c 9'])
  })

  test('a clock that goes back does not lengthen the wait', () => {
    const planned = new PlannedPod(makePod())
    planned.settle()
    planned.exit('c', 1)
    planned.settle()
    planned.exit('c', 1)
    planned.nowMs -= 3_600_000
    planned.step()
    assert.equal(planned.plan?.wakeAtMs, planned.nowMs + 10_000)
  })

  for (const [policy, exitCode, restarts, phase] of [
    ['Always', 0, true, 'Running'],
    ['Always', 1, true, 'Running'],
    ['OnFailure', 1, true, 'Running'],
    ['OnFailure', 0, false, 'Succeeded'],
    ['Never', 0, false, 'Succeeded'],
    ['Never', 7, false, 'Failed'],
  ] as const)
    test(`${policy}, exit code ${exitCode}: ${restarts ? 'again' : phase}`, () => {
      const planned = new PlannedPod(makePod({ restartPolicy: policy }))
      planned.settle()
      planned.exit('c', exitCode)
      assert.equal(statusOf(planned).phase, phase)
      assert.deepEqual(planned.step(), restarts ? ['start c 1'] : ['stop-sandbox'])
    })

  test('only the newest and the one before stay', () => {
    const planned = new PlannedPod(makePod())
    planned.settle()
    for (let restart = 0; restart < 5; restart++) {
      planned.exit('c', 1)
      planned.nowMs += 400_000
      planned.settle()
    }
    assert.deepEqual(
      planned.contents.containers.map((one) => one.attempt),
      [4, 5],
    )
    assert.equal(statusOf(planned).containerStatuses?.[0]?.restartCount, 5)
    assert.equal(statusOf(planned).containerStatuses?.[0]?.lastState.terminated?.exitCode, 1)
  })

  test('a failed liveness probe kills with the pod’s grace; the policy decides what comes then', () => {
    const planned = new PlannedPod(makePod({ terminationGracePeriodSeconds: 7 }))
    planned.settle()
    planned.memory.probes.set(planned.container().id, {
      started: true,
      ready: true,
      failed: 'failed liveness probe, will be restarted',
    })
    assert.deepEqual(planned.step(), ['stop c 7s'])
    planned.memory.probes.clear()
    assert.deepEqual(planned.step(), ['start c 1'])
  })

  test('a sandbox that ended is made anew, and its containers with it, in order', () => {
    const planned = new PlannedPod(makePod({ initContainers: [{ name: 'i', image: 'x' }] }))
    planned.settle()
    planned.exit('i', 0)
    planned.settle()
    for (const sandbox of planned.contents.sandboxes) sandbox.ready = false
    planned.exit('c', 255)
    assert.deepEqual(planned.settle(), ['stop-sandbox', 'start-sandbox 1', 'start i 1'])
    planned.exit('i', 0)
    assert.deepEqual(planned.settle(), ['start c 1'])
  })

  test('never twice: a pod that may not restart ends with its sandbox', () => {
    const planned = new PlannedPod(makePod({ restartPolicy: 'Never' }))
    planned.settle()
    for (const sandbox of planned.contents.sandboxes) sandbox.ready = false
    planned.exit('c', 255)
    assert.deepEqual(planned.settle(), ['stop-sandbox'])
    assert.equal(statusOf(planned).phase, 'Failed')
  })

  test('containers that the runtime lost count as ended: restarted under the next number, or failed', () => {
    const lost = (restartPolicy: 'Always' | 'Never') => {
      const planned = new PlannedPod(makePod({ restartPolicy }))
      planned.settle()
      ;(planned.pod as Pod).status = statusOf(planned)
      planned.contents = { sandboxes: [], containers: [] }
      return planned
    }
    const always = lost('Always')
    assert.deepEqual(always.settle(), ['start-sandbox 0', 'start c 1'])
    const never = lost('Never')
    assert.deepEqual(never.settle(), [])
    assert.equal(statusOf(never).phase, 'Failed')
    assert.equal(statusOf(never).containerStatuses?.[0]?.state.terminated?.reason, 'ContainerStatusUnknown')
  })

  test('past its deadline a pod fails', () => {
    const planned = new PlannedPod(makePod({ activeDeadlineSeconds: 60 }))
    planned.settle()
    ;(planned.pod as Pod).status = statusOf(planned)
    assert.deepEqual(planned.settle(), [])
    planned.nowMs += 61_000
    assert.deepEqual(planned.step(), ['stop c 30s'])
    planned.memory.ended = planned.plan?.refusal
    planned.settle()
    assert.equal(statusOf(planned).phase, 'Failed')
    assert.equal(statusOf(planned).reason, 'DeadlineExceeded')
  })
})

describe('a pod goes', () => {
  test('containers with grace, sandbox, volumes, object; then all that is left', () => {
    const planned = new PlannedPod(makePod())
    planned.settle()
    planned.delete(12)
    assert.deepEqual(planned.step(), ['stop c 12s'])
    assert.deepEqual(planned.step(), ['stop-sandbox'])
    assert.equal(planned.plan?.ended, true)
    assert.deepEqual(planned.step(), ['remove-volumes'])
    assert.deepEqual(planned.step(), ['delete-object'])
    assert.deepEqual(planned.step(), ['remove-container'])
    assert.deepEqual(planned.step(), ['remove-sandbox'])
    assert.throws(() => planned.step(), Forgotten)
  })

  test('a second deletion in more of a hurry shortens the grace; one in less does not lengthen it', () => {
    const planned = new PlannedPod(makePod())
    planned.settle()
    const { id } = planned.container()
    planned.memory.stops.set(id, planned.nowMs + 30_000)
    planned.memory.inFlight.add(`stop-container ${id} ${planned.nowMs + 30_000}`)
    planned.delete(60)
    assert.deepEqual(planned.decide().actions, [])
    planned.delete(1)
    assert.deepEqual(planned.step(), ['stop c 1s'])
  })

  test('an orphan is taken down', () => {
    const planned = new PlannedPod(makePod())
    planned.settle()
    planned.pod = undefined
    assert.deepEqual(planned.step(), ['stop c 2s'])
    assert.throws(() => planned.settle(), Forgotten)
    assert.deepEqual(planned.contents, { sandboxes: [], containers: [] })
  })

  test('sidecars end after the others', () => {
    const planned = new PlannedPod(makePod({ initContainers: [{ name: 'side', image: 'x', restartPolicy: 'Always' }] }))
    planned.settle()
    planned.delete(5)
    assert.deepEqual(planned.step(), ['stop c 5s'])
    assert.deepEqual(planned.step(), ['stop side 5s'])
  })

  test('nothing is deleted while something is still being started', () => {
    const planned = new PlannedPod(makePod())
    planned.memory.inFlight.add('start-sandbox')
    planned.delete(5)
    assert.deepEqual(planned.step(), [])
  })
})

describe('whatever happens', () => {
  const event = fc.constantFrom('exit0', 'exit1', 'lose-sandbox', 'lose-all', 'unhealthy', 'wait', 'fail-init')

  test('a pod comes to rest, runs at most one container of each name, never counts down, and leaves nothing when deleted', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('Always', 'OnFailure', 'Never'),
        fc.boolean(),
        fc.array(event, { maxLength: 25 }),
        (restartPolicy, hasInit, events) => {
          const planned = new PlannedPod(
            makePod({ restartPolicy, ...(hasInit ? { initContainers: [{ name: 'i', image: 'x' }] } : {}) }),
          )
          planned.settle()
          let restarts = 0
          for (const what of events) {
            const running = planned.contents.containers.filter((one) => one.state === 'running')
            const one = running.at(-1)
            if (what === 'exit0' && one) planned.exit(one.name, 0)
            if (what === 'exit1' && one) planned.exit(one.name, 1)
            if (what === 'fail-init' && running.some((c) => c.name === 'i')) planned.exit('i', 2)
            if (what === 'unhealthy' && one)
              planned.memory.probes.set(one.id, { started: true, ready: false, failed: 'failed liveness probe' })
            if (what === 'lose-sandbox') for (const sandbox of planned.contents.sandboxes) sandbox.ready = false
            if (what === 'lose-all') planned.contents = { sandboxes: [], containers: [] }
            if (what === 'wait') planned.nowMs += 100_000
            planned.settle()
            const status = statusOf(planned)
            ;(planned.pod as Pod).status = status
            planned.settle()
            const names = planned.contents.containers.filter((c) => c.state === 'running').map((c) => c.name)
            assert.equal(new Set(names).size, names.length)
            assert.ok(planned.contents.sandboxes.filter((sandbox) => sandbox.ready).length <= 1)
            if (names.includes('c') && hasInit)
              assert.ok(!names.includes('i'), 'an init container runs beside its pod’s containers')
            const count = status.containerStatuses?.[0]?.restartCount ?? 0
            assert.ok(count >= restarts, `restarts fell from ${restarts} to ${count}`)
            restarts = count
            if (status.phase === 'Succeeded' || status.phase === 'Failed') assert.deepEqual(names, [])
          }
          planned.delete(3)
          assert.throws(() => planned.settle(), Forgotten)
          assert.deepEqual(planned.contents, { sandboxes: [], containers: [] })
          assert.ok(planned.deleted)
        },
      ),
      { numRuns: 1000 },
    )
  })

  test('deciding is pure', () => {
    const planned = new PlannedPod(makePod())
    planned.settle()
    planned.exit('c', 1)
    const before = JSON.stringify([
      planned.contents,
      planned.pod,
      [...planned.memory.inFlight],
      [...planned.memory.stops],
    ])
    const input = { pod: planned.pod, contents: planned.contents, memory: planned.memory, orphanGraceMs: 1 }
    assert.deepEqual(decidePodActions(input, planned.nowMs), decidePodActions(input, planned.nowMs))
    assert.equal(
      JSON.stringify([planned.contents, planned.pod, [...planned.memory.inFlight], [...planned.memory.stops]]),
      before,
    )
  })
})
