import { sameJson } from '@capstan/api'
import { CallError } from '@capstan/actor'
import {
  byText,
  claimObjects,
  type ControllerContext,
  controllerOf,
  controllerRef,
  objectKey,
  RESOURCES,
  startController,
  watchOf,
} from '@capstan/client'
import {
  DESIRED_REPLICAS,
  findNewSet,
  isScaling,
  MAX_REPLICAS,
  newSetSize,
  type Resize,
  REVISION,
  REVISION_HISTORY,
  revisionOf,
  type Rollout,
  rolloutOf,
  scaleSets,
  shrinkOldSets,
  surplusHistory,
  TEMPLATE_HASH,
  templateHash,
} from './deployment-plan.js'
import { deploymentStatus, type RolloutNews } from './deployment-status.js'
import { type Deployment, isPodFinished, type Pod, type ReplicaSet } from './kinds.js'
import type { Part, PartContext } from './part.js'
import { BY_CONTROLLER, controllerIndex, getLive } from './replica-controller.js'
import { isEmptySelector, selectorFits } from './selectors.js'

const TYPE = { apiVersion: 'apps/v1', kind: 'Deployment' }
/** Annotations that belong to the Deployment alone. */
const OWN_ANNOTATIONS = new Set([
  'kubectl.kubernetes.io/last-applied-configuration',
  REVISION,
  REVISION_HISTORY,
  DESIRED_REPLICAS,
  MAX_REPLICAS,
])

/** The ReplicaSets of one Deployment in one round. */
interface Sets {
  deployment: Deployment
  rollout: Rollout
  newSet: ReplicaSet | undefined
  old: ReplicaSet[]
  news: RolloutNews
}

export function startDeployments(parts: PartContext): Part {
  const { world, informers } = parts
  const deployments = informers.for<Deployment>(RESOURCES.deployments)
  const replicaSets = informers.for<ReplicaSet>(RESOURCES.replicasets)
  const pods = informers.for<Pod>(RESOURCES.pods)
  replicaSets.addIndex(BY_CONTROLLER, controllerIndex)
  pods.addIndex(BY_CONTROLLER, controllerIndex)

  function keysOfSet(set: ReplicaSet, before?: ReplicaSet): string[] {
    const keys = new Set<string>()
    for (const object of before ? [set, before] : [set]) {
      const owner = controllerOf(object)
      if (owner?.kind === 'Deployment') keys.add(`${object.metadata.namespace}/${owner.name}`)
      else if (!owner)
        for (const deployment of deployments.list(object.metadata.namespace))
          if (selectorFits(deployment.spec?.selector, object.metadata.labels)) keys.add(objectKey(deployment))
    }
    return [...keys]
  }

  return startController(world, {
    ...parts,
    name: 'deployment-controller',
    watches: [
      watchOf<Deployment>(RESOURCES.deployments),
      watchOf<ReplicaSet>(RESOURCES.replicasets, keysOfSet),
      // Recreate goes on when the last old pod is gone.
      watchOf<Pod>(RESOURCES.pods, (pod, _, deleted) => {
        if (!deleted && !isPodFinished(pod)) return []
        const set = replicaSets.get(`${pod.metadata.namespace}/${controllerOf(pod)?.name ?? ''}`)
        return set ? keysOfSet(set) : []
      }),
    ],
    workers: parts.options.workers ?? 4,
    async reconcile(key, context) {
      const deployment = deployments.get(key)
      if (!deployment) return
      if (isEmptySelector(deployment.spec?.selector)) {
        context.events.record(
          { object: deployment, ...TYPE },
          'Warning',
          'SelectingAll',
          'This deployment is selecting all pods.',
        )
        return
      }
      const claimed = await claim(deployment, context)
      const newSet = findNewSet(deployment, claimed)
      const sets: Sets = {
        deployment,
        rollout: rolloutOf(deployment),
        newSet,
        old: claimed.filter((rs) => rs !== newSet),
        news: {},
      }
      let failure: unknown
      try {
        await roll(sets, context)
      } catch (error) {
        failure = error
      }
      const waitMs = await writeStatus(sets, context)
      if (failure) throw failure
      return waitMs === undefined ? undefined : { requeueAfterMs: waitMs }
    },
  })

  function claim(deployment: Deployment, { client }: ControllerContext): Promise<ReplicaSet[]> {
    const { uid = '', namespace = '', name = '' } = deployment.metadata
    const candidates = [
      ...replicaSets.byIndex(BY_CONTROLLER, uid),
      ...replicaSets.byIndex(BY_CONTROLLER, `orphan/${namespace}`),
    ]
    return claimObjects<ReplicaSet>({
      client,
      resource: RESOURCES.replicasets,
      owner: deployment,
      ownerType: TYPE,
      candidates: candidates.sort((a, b) => byText(objectKey(a), objectKey(b))),
      matches: (rs) => selectorFits(deployment.spec?.selector, rs.metadata.labels),
      liveOwner: () => getLive<Deployment>(client, RESOURCES.deployments, { namespace, name }),
    })
  }

  /** One step of the rollout; the change that it makes brings the next one. */
  async function roll(sets: Sets, context: ControllerContext): Promise<void> {
    const { deployment, rollout } = sets
    if (deployment.metadata.deletionTimestamp !== undefined) return
    if (deployment.spec?.paused || isScaling(rollout, sets.newSet ? [...sets.old, sets.newSet] : sets.old)) {
      await keepRevision(sets, context)
      return resize(sets, scaleSets(rollout, sets.newSet, sets.old), context)
    }
    if (rollout.recreate) {
      const running = sets.old.filter((rs) => (rs.spec?.replicas ?? 0) > 0)
      if (running.length > 0)
        return resize(
          sets,
          running.map((rs) => ({ name: rs.metadata.name ?? '', replicas: 0 })),
          context,
        )
      if (sets.old.some((rs) => pods.byIndex(BY_CONTROLLER, rs.metadata.uid ?? '').some((pod) => !isPodFinished(pod))))
        return
    }
    const newSet = await ensureNewSet(sets, context)
    const wanted = newSetSize(rollout, newSet, [...sets.old, newSet])
    if (wanted !== (newSet.spec?.replicas ?? 0))
      return resize(sets, [{ name: newSet.metadata.name ?? '', replicas: wanted }], context)
    if (!rollout.recreate) {
      const shrunk = shrinkOldSets(rollout, newSet, sets.old)
      if (shrunk.length > 0) return resize(sets, shrunk, context)
    }
    await cleanUp(sets, context)
  }

  /** The ReplicaSet with the present template, made if there is none, with the right revision and annotations. */
  async function ensureNewSet(sets: Sets, context: ControllerContext): Promise<ReplicaSet> {
    if (sets.newSet) {
      await keepRevision(sets, context)
      return sets.newSet
    }
    const { deployment, rollout, old } = sets
    const { name = '', namespace = '' } = deployment.metadata
    const template = deployment.spec?.template ?? {}
    const hash = templateHash(deployment)
    const labels = { ...template.metadata?.labels, [TEMPLATE_HASH]: hash }
    const revision = nextRevision(old)
    const set: ReplicaSet = {
      apiVersion: 'apps/v1',
      kind: 'ReplicaSet',
      metadata: {
        name: `${name}-${hash}`,
        namespace,
        labels,
        annotations: { ...inheritedAnnotations(deployment), ...sizeAnnotations(rollout), [REVISION]: String(revision) },
        ownerReferences: [controllerRef(deployment, TYPE)],
      },
      spec: {
        replicas: newSetSize(rollout, undefined, old),
        minReadySeconds: deployment.spec?.minReadySeconds ?? 0,
        selector: {
          ...deployment.spec?.selector,
          matchLabels: { ...deployment.spec?.selector?.matchLabels, [TEMPLATE_HASH]: hash },
        },
        template: { ...template, metadata: { ...template.metadata, labels } },
      },
    }
    try {
      sets.newSet = await context.client.create<ReplicaSet>(RESOURCES.replicasets, set)
    } catch (error) {
      const { code, message } = CallError.fromBus(error)
      if (code === 'AlreadyExists') {
        const present = await getLive<ReplicaSet>(context.client, RESOURCES.replicasets, {
          namespace,
          name: `${name}-${hash}`,
        })
        const own = present && controllerOf(present)?.uid === deployment.metadata.uid
        if (present && own) return (sets.newSet = present)
        // Another object has the name: the next round draws another hash.
        if (present) {
          const collisionCount = (deployment.status?.collisionCount ?? 0) + 1
          sets.deployment = { ...deployment, status: { ...deployment.status, collisionCount } }
        }
        throw error
      }
      if (code !== 'FENCED' && code !== 'CLOSED') {
        sets.news.failure = `Failed to create new replica set "${name}-${hash}": ${message}`
        context.events.record({ object: deployment, ...TYPE }, 'Warning', 'ReplicaSetCreateError', sets.news.failure)
      }
      throw error
    }
    sets.news.createdSet = `${name}-${hash}`
    const scaled = `Scaled up replica set ${name}-${hash} from 0 to ${set.spec?.replicas ?? 0}`
    if ((set.spec?.replicas ?? 0) > 0)
      context.events.record({ object: deployment, ...TYPE }, 'Normal', 'ScalingReplicaSet', scaled)
    await keepDeploymentRevision(sets, revision, context)
    return sets.newSet
  }

  /** A ReplicaSet that is used again (rollback) gets the next revision; annotations follow the Deployment's. */
  async function keepRevision(sets: Sets, context: ControllerContext): Promise<void> {
    const { deployment, newSet } = sets
    if (!newSet) return
    const present = newSet.metadata.annotations ?? {}
    const annotations: Record<string, string> = { ...present, ...inheritedAnnotations(deployment) }
    const revision = Math.max(nextRevision(sets.old), revisionOf(newSet))
    if (revision > revisionOf(newSet)) {
      const history = (present[REVISION_HISTORY] ?? '').split(',').filter((r) => r !== '')
      if (present[REVISION] !== undefined)
        annotations[REVISION_HISTORY] = [...history, present[REVISION]].slice(-20).join(',')
      annotations[REVISION] = String(revision)
    }
    const minReadySeconds = deployment.spec?.minReadySeconds ?? 0
    if (!sameJson(annotations, present) || (newSet.spec?.minReadySeconds ?? 0) !== minReadySeconds) {
      const next = {
        ...newSet,
        metadata: { ...newSet.metadata, annotations },
        spec: { ...newSet.spec, minReadySeconds },
      }
      sets.newSet = await context.client.update<ReplicaSet>(RESOURCES.replicasets, next)
    }
    await keepDeploymentRevision(sets, revision, context)
  }

  async function keepDeploymentRevision(sets: Sets, revision: number, { client }: ControllerContext): Promise<void> {
    const { metadata } = sets.deployment
    if (metadata.annotations?.[REVISION] === String(revision)) return
    const ref = { name: metadata.name ?? '', namespace: metadata.namespace ?? '' }
    const annotated = await client.patch<Deployment>(RESOURCES.deployments, ref, 'merge', {
      metadata: { annotations: { [REVISION]: String(revision) } },
    })
    // The status written at the end of this round must carry the new resourceVersion; but a spec that changed meanwhile is
    // for the next round, so `observedGeneration` stays what this round looked at.
    const { resourceVersion } = annotated.metadata
    sets.deployment = {
      ...sets.deployment,
      metadata: {
        ...metadata,
        annotations: annotated.metadata.annotations ?? {},
        ...(resourceVersion ? { resourceVersion } : {}),
      },
    }
  }

  async function resize(sets: Sets, resizes: Resize[], { client, events }: ControllerContext): Promise<void> {
    for (const { name, replicas } of resizes) {
      const set = sets.newSet?.metadata.name === name ? sets.newSet : sets.old.find((rs) => rs.metadata.name === name)
      if (!set) continue
      const before = set.spec?.replicas ?? 0
      const written = await client.update<ReplicaSet>(RESOURCES.replicasets, {
        ...set,
        metadata: { ...set.metadata, annotations: { ...set.metadata.annotations, ...sizeAnnotations(sets.rollout) } },
        spec: { ...set.spec, replicas },
      })
      if (set === sets.newSet) sets.newSet = written
      else sets.old = sets.old.map((rs) => (rs === set ? written : rs))
      if (before === replicas) continue
      const direction = replicas > before ? 'up' : 'down'
      const text = `Scaled ${direction} replica set ${name} from ${before} to ${replicas}`
      events.record({ object: sets.deployment, ...TYPE }, 'Normal', 'ScalingReplicaSet', text)
    }
    // All sizes are right: only the annotations that say for which `replicas` they are may be behind.
    const desired = String(sets.rollout.replicas)
    for (const rs of sets.newSet ? [...sets.old, sets.newSet] : sets.old) {
      const { annotations } = rs.metadata
      if (
        (rs.spec?.replicas ?? 0) === 0 ||
        annotations?.[DESIRED_REPLICAS] === undefined ||
        annotations[DESIRED_REPLICAS] === desired
      )
        continue
      const next = {
        ...rs,
        metadata: { ...rs.metadata, annotations: { ...annotations, ...sizeAnnotations(sets.rollout) } },
      }
      const written = await client.update<ReplicaSet>(RESOURCES.replicasets, next)
      if (rs === sets.newSet) sets.newSet = written
      else sets.old = sets.old.map((other) => (other === rs ? written : other))
    }
  }

  async function cleanUp(sets: Sets, { client }: ControllerContext): Promise<void> {
    for (const rs of surplusHistory(sets.old, sets.deployment.spec?.revisionHistoryLimit ?? 10)) {
      const { name = '', namespace = '', uid, resourceVersion } = rs.metadata
      const preconditions = { ...(uid ? { uid } : {}), ...(resourceVersion ? { resourceVersion } : {}) }
      await client.delete(RESOURCES.replicasets, { name, namespace }, { preconditions })
    }
  }

  async function writeStatus(sets: Sets, { client, log }: ControllerContext): Promise<number | undefined> {
    const { deployment, rollout, newSet, old, news } = sets
    const { status, changesInMs } = deploymentStatus(deployment, rollout, newSet, old, news, world.clock.nowMs())
    const present = deployments.get(objectKey(deployment))?.status
    if (sameJson(present, status)) return changesInMs
    try {
      await client.update(RESOURCES.deployments, { ...deployment, status }, { subresource: 'status' })
    } catch (error) {
      // The cache is behind; the change on its way here brings the next round, which writes the status anew.
      if (!(error instanceof CallError && error.code === 'Conflict')) throw error
      log.debug({ deployment: deployment.metadata.name }, 'status write conflicted')
      return Math.min(changesInMs ?? 200, 200)
    }
    return changesInMs
  }
}

function nextRevision(old: readonly ReplicaSet[]): number {
  return Math.max(0, ...old.map(revisionOf)) + 1
}

function sizeAnnotations({ replicas, maxSurge }: Rollout): Record<string, string> {
  return { [DESIRED_REPLICAS]: String(replicas), [MAX_REPLICAS]: String(replicas + maxSurge) }
}

function inheritedAnnotations(deployment: Deployment): Record<string, string> {
  const entries = Object.entries(deployment.metadata.annotations ?? {}).filter(([key]) => !OWN_ANNOTATIONS.has(key))
  return Object.fromEntries(entries)
}
