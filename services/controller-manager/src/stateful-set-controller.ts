import { sameJson } from '@capstan/api'
import { CallError } from '@capstan/actor'
import {
  byText,
  claimObjects,
  type ControllerContext,
  controllerOf,
  controllerRef,
  Expectations,
  type KubeObject,
  objectKey,
  RESOURCES,
  startController,
  watchOf,
} from '@capstan/client'
import type { ControllerRevision, Pod, StatefulSet, StatefulSetStatus } from './kinds.js'
import type { Part, PartContext } from './part.js'
import { BY_CONTROLLER, controllerIndex, getLive, ownerKeyIn, ownersConcerned } from './replica-controller.js'
import { isEmptySelector, selectorFits } from './selectors.js'
import { historyOf, revisionData, revisionName, surplusRevisions, templateOf } from './stateful-set-history.js'
import {
  identityLabels,
  ordinalOf,
  planSet,
  podOf,
  type SetPlan,
  setPlanOf,
  setStatusOf,
  type SetStep,
} from './stateful-set-plan.js'

const TYPE = { apiVersion: 'apps/v1', kind: 'StatefulSet' }
/** At most so many pods are made or deleted in one go; the next go follows when the cache shows this one. */
const BURST_MAX = 100
const STALE_MS = 200
const REVISION_HASH = 'controller.kubernetes.io/hash'

/** A StatefulSet in one round. */
interface Round {
  key: string
  set: StatefulSet
  plan: SetPlan
  pods: Pod[]
  revisions: ControllerRevision[]
  current: ControllerRevision
  update: ControllerRevision
}

/** Does a StatefulSet own it? Then it has an identity that no other live pod may have (promise C3). */
export function isIdentityPod(pod: KubeObject): boolean {
  const owner = controllerOf(pod)
  return owner?.kind === TYPE.kind && owner.apiVersion.startsWith('apps/')
}

/**
 * Keeps the pods `name-0`, `name-1`, … of StatefulSets. A name stands for one pod at a time: its successor is made when the
 * API has none of that name any more. That the former one does not run either is the business of kubelets, and of
 * node-lifecycle where a node is silent.
 */
export function startStatefulSets(parts: PartContext): Part {
  const { world, informers } = parts
  const sets = informers.for<StatefulSet>(RESOURCES.statefulsets)
  const history = informers.for<ControllerRevision>(RESOURCES.controllerrevisions)
  const pods = informers.for<Pod>(RESOURCES.pods)
  history.addIndex(BY_CONTROLLER, controllerIndex)
  pods.addIndex(BY_CONTROLLER, controllerIndex)
  const expectations = new Expectations(world)

  const ownerKey = ownerKeyIn(sets, TYPE)
  function keysOfPod(pod: Pod, before: Pod | undefined, deleted: boolean): string[] {
    const key = ownerKey(pod)
    const keys = ownersConcerned({ pod, before, deleted }, ownerKey, expectations)
    // An orphan may be adopted; whatever it is, its name may be in a set's way.
    const { namespace, name = '' } = pod.metadata
    if (key === undefined) {
      const set = sets.get(`${namespace}/${name.slice(0, name.lastIndexOf('-'))}`)
      if (set) keys.add(objectKey(set))
    }
    return [...keys]
  }

  return startController(world, {
    ...parts,
    name: 'statefulset-controller',
    watches: [
      watchOf<StatefulSet>(RESOURCES.statefulsets),
      watchOf<Pod>(RESOURCES.pods, keysOfPod),
      watchOf<ControllerRevision>(RESOURCES.controllerrevisions, (revision) => {
        const key = ownerKey(revision)
        return key === undefined ? [] : [key]
      }),
    ],
    workers: parts.options.workers ?? 4,
    async reconcile(key, context) {
      const set = sets.get(key)
      if (!set) return expectations.forget(key)
      // The cache does not show yet what the last round did.
      if (!expectations.satisfied(key)) return { requeueAfterMs: expectations.waitMs(key) }
      if (set.metadata.deletionTimestamp !== undefined) return
      if (isEmptySelector(set.spec?.selector)) {
        const text = 'This StatefulSet is selecting all pods.'
        return context.events.record({ object: set, ...TYPE }, 'Warning', 'SelectingAll', text)
      }
      const round = await look(key, set, context)
      const nowMs = world.clock.nowMs()
      const revisions = { current: round.current.metadata.name ?? '', update: round.update.metadata.name ?? '' }
      const { steps, changesInMs } = planSet(set.metadata.name ?? '', round.plan, round.pods, revisions, nowMs)
      let failure: unknown
      try {
        await carryOut(round, steps, context)
      } catch (error) {
        failure = error
      }
      const status = setStatusOf(set, round.plan, round.pods, revisions, set.status?.collisionCount, nowMs)
      const written = await writeStatus(set, status, context)
      if (failure) throw failure
      if (!written) return { requeueAfterMs: Math.min(changesInMs ?? STALE_MS, STALE_MS) }
      await cleanUp(round, status, context)
      return changesInMs === undefined ? undefined : { requeueAfterMs: changesInMs }
    },
  })

  // ------------------------------------------------------------------------------------------------------ what is there

  async function look(key: string, set: StatefulSet, context: ControllerContext): Promise<Round> {
    const { name = '' } = set.metadata
    const ownPods = await claim<Pod>(
      set,
      RESOURCES.pods,
      pods,
      (pod) => ordinalOf(name, pod.metadata.name) !== undefined,
      context,
    )
    const revisions = await claim<ControllerRevision>(set, RESOURCES.controllerrevisions, history, () => true, context)
    const { update: found, current, number } = historyOf(set, revisions)
    const update = found ? await renumber(found, number, context) : await newRevision(set, number, context)
    const plan = setPlanOf(set)
    return { key, set, plan, pods: ownPods, revisions, update, current: current ?? update }
  }

  function claim<T extends KubeObject>(
    set: StatefulSet,
    resource: (typeof RESOURCES)['pods' | 'controllerrevisions'],
    cache: { byIndex(name: string, value: string): T[] },
    fits: (object: T) => boolean,
    { client }: ControllerContext,
  ): Promise<T[]> {
    const { uid = '', namespace = '', name = '' } = set.metadata
    const candidates = [...cache.byIndex(BY_CONTROLLER, uid), ...cache.byIndex(BY_CONTROLLER, `orphan/${namespace}`)]
    return claimObjects<T>({
      client,
      resource,
      owner: set,
      ownerType: TYPE,
      candidates: candidates.sort((a, b) => byText(objectKey(a), objectKey(b))),
      matches: (object) => selectorFits(set.spec?.selector, object.metadata.labels) && fits(object),
      liveOwner: () => getLive<StatefulSet>(client, RESOURCES.statefulsets, { namespace, name }),
    })
  }

  async function renumber(
    revision: ControllerRevision,
    number: number,
    { client }: ControllerContext,
  ): Promise<ControllerRevision> {
    if (revision.revision === number) return revision
    return client.update<ControllerRevision>(RESOURCES.controllerrevisions, { ...revision, revision: number })
  }

  async function newRevision(
    set: StatefulSet,
    number: number,
    { client }: ControllerContext,
  ): Promise<ControllerRevision> {
    const { namespace = '', annotations } = set.metadata
    const collisionCount = set.status?.collisionCount ?? 0
    const name = revisionName(set, collisionCount)
    const { 'kubectl.kubernetes.io/last-applied-configuration': _, ...inherited } = annotations ?? {}
    const made: ControllerRevision = {
      apiVersion: 'apps/v1',
      kind: 'ControllerRevision',
      metadata: {
        name,
        namespace,
        labels: { ...set.spec?.template?.metadata?.labels, [REVISION_HASH]: name.slice(name.lastIndexOf('-') + 1) },
        ...(Object.keys(inherited).length > 0 ? { annotations: inherited } : {}),
        ownerReferences: [controllerRef(set, TYPE)],
      },
      data: revisionData(set),
      revision: number,
    }
    try {
      return await client.create<ControllerRevision>(RESOURCES.controllerrevisions, made)
    } catch (error) {
      if (CallError.fromBus(error).code !== 'AlreadyExists') throw error
      const ref = { namespace, name }
      const present = await getLive<ControllerRevision>(client, RESOURCES.controllerrevisions, ref)
      // An answer that was lost, or a cache that is behind.
      if (present && controllerOf(present)?.uid === set.metadata.uid && sameJson(present.data, made.data))
        return renumber(present, number, { client } as ControllerContext)
      if (present) {
        const status = { ...(set.status ?? { replicas: 0 }), collisionCount: collisionCount + 1 }
        await client.update(RESOURCES.statefulsets, { ...set, status }, { subresource: 'status' })
      }
      throw error
    }
  }

  // -------------------------------------------------------------------------------------------------- what is to be done

  async function carryOut(round: Round, steps: readonly SetStep[], context: ControllerContext): Promise<void> {
    const { key } = round
    const now = steps.slice(0, BURST_MAX)
    expectations.expectCreations(key, now.filter((step) => step.kind === 'create').length)
    expectations.expectDeletions(
      key,
      now.flatMap((step) => (step.kind === 'delete' ? [step.pod.metadata.uid ?? ''] : [])),
    )
    const results = await Promise.allSettled(now.map((step) => carryOutOne(round, step, context)))
    const failed = results.find((result) => result.status === 'rejected')
    if (failed) throw failed.reason
    if (steps.length > now.length) context.enqueue(key)
  }

  async function carryOutOne(round: Round, step: SetStep, context: ControllerContext): Promise<void> {
    switch (step.kind) {
      case 'create':
        return createPod(round, step.ordinal, step.revision === 'update' ? round.update : round.current, context)
      case 'delete':
        return deletePod(round, step.pod, step.why, context)
      case 'label': {
        const { name = '', namespace = '', resourceVersion } = step.pod.metadata
        const metadata = { labels: identityLabels(name), resourceVersion }
        await context.client.patch(RESOURCES.pods, { namespace, name }, 'merge', { metadata })
      }
    }
  }

  async function createPod(
    { key, set }: Round,
    ordinal: number,
    revision: ControllerRevision,
    { client, events }: ControllerContext,
  ): Promise<void> {
    const { namespace = '', name: setName } = set.metadata
    const { name, labels, annotations, spec } = podOf(set, ordinal, templateOf(revision), revision.metadata.name ?? '')
    const pod: KubeObject = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        name,
        namespace,
        labels,
        ...(annotations ? { annotations } : {}),
        ownerReferences: [controllerRef(set, TYPE)],
      },
      ...({ spec } as object),
    }
    const subject = { object: set, ...TYPE }
    try {
      await client.create<Pod>(RESOURCES.pods, pod)
      const text = `create Pod ${name} in StatefulSet ${setName} successful`
      events.record(subject, 'Normal', 'SuccessfulCreate', text)
    } catch (error) {
      const failure = CallError.fromBus(error)
      if (failure.code === 'AlreadyExists') {
        const present = await getLive<Pod>(client, RESOURCES.pods, { namespace, name })
        // The cache is behind, and will show it: it stays expected.
        if (present && controllerOf(present)?.uid === set.metadata.uid) return
      }
      // What may have happened stays expected too, until the time-out ends the wait.
      if (failure.outcome === 'not-applied') expectations.creationObserved(key)
      // Nothing is made in a namespace that is going away.
      if (failure.code === 'Forbidden' && /terminat/i.test(failure.message)) return
      const text = `create Pod ${name} in StatefulSet ${setName} failed error: ${failure.message}`
      events.record(subject, 'Warning', 'FailedCreate', text)
      throw failure
    }
  }

  async function deletePod(
    { key, set }: Round,
    pod: Pod,
    why: string,
    { client, events, log }: ControllerContext,
  ): Promise<void> {
    const { name = '', namespace = '', uid = '' } = pod.metadata
    const subject = { object: set, ...TYPE }
    try {
      await client.delete(RESOURCES.pods, { namespace, name }, { preconditions: { uid } })
      log.info({ pod: objectKey(pod), why }, 'deleted a pod of a stateful set')
      const text = `delete Pod ${name} in StatefulSet ${set.metadata.name} successful`
      events.record(subject, 'Normal', 'SuccessfulDelete', text)
    } catch (error) {
      const failure = CallError.fromBus(error)
      if (failure.outcome === 'not-applied') expectations.deletionObserved(key, uid)
      // Gone, or another one has its name: in both cases this one is gone.
      if (failure.code === 'NotFound' || failure.code === 'Conflict') return
      const text = `delete Pod ${name} in StatefulSet ${set.metadata.name} failed error: ${failure.message}`
      events.record(subject, 'Warning', 'FailedDelete', text)
      throw failure
    }
  }

  /** False: the cache is behind, and the next round has to write it. */
  async function writeStatus(
    set: StatefulSet,
    status: StatefulSetStatus,
    { client, log }: ControllerContext,
  ): Promise<boolean> {
    if (sameJson(set.status, status)) return true
    try {
      await client.update(RESOURCES.statefulsets, { ...set, status }, { subresource: 'status' })
      return true
    } catch (error) {
      if (!(error instanceof CallError && error.code === 'Conflict')) throw error
      log.debug({ statefulSet: objectKey(set) }, 'status write conflicted')
      return false
    }
  }

  async function cleanUp(round: Round, status: StatefulSetStatus, { client }: ControllerContext): Promise<void> {
    const live = [status.currentRevision ?? '', status.updateRevision ?? '', round.current.metadata.name ?? '']
    for (const revision of surplusRevisions(round.set, round.revisions, round.pods, live)) {
      const { name = '', namespace = '', uid } = revision.metadata
      try {
        await client.delete(RESOURCES.controllerrevisions, { name, namespace }, uid ? { preconditions: { uid } } : {})
      } catch (error) {
        if (CallError.fromBus(error).code !== 'NotFound') throw error
      }
    }
  }
}
