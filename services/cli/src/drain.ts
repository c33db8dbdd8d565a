/** `capstan node drain` and `uncordon`: a node is emptied before its machine is stopped, and takes pods again after. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Progress, UserError } from './console.js'
import { KubeApi, KubeApiError } from './kube-api.js'

/** Between two looks at what is left, and between two attempts to evict what may not be evicted yet. */
const LOOK_MS = 500
const REPEAT_MS = 5000

export interface DrainOptions {
  /** Evict also pods that nobody will make anew. */
  force: boolean
  /** How long all of it may take. */
  timeoutMs: number
  /** For the containers to end. Missing: what each pod says. */
  gracePeriodSeconds?: number
  lookMs?: number
  repeatMs?: number
}

export interface DrainPod {
  metadata: {
    name: string
    namespace: string
    uid: string
    annotations?: Record<string, string>
    deletionTimestamp?: string
    ownerReferences?: { kind: string; name: string; controller?: boolean }[]
  }
  spec?: { volumes?: { emptyDir?: object }[] }
  status?: { phase?: string }
}

/** What draining needs of an API. Every call may be repeated. @throws KubeApiError */
export interface DrainApi {
  setUnschedulable(node: string, unschedulable: boolean): Promise<void>
  podsOn(node: string): Promise<DrainPod[]>
  /** Resolves also for one that is gone. */
  evict(pod: DrainPod, gracePeriodSeconds: number | undefined): Promise<void>
}

export interface DrainPlan {
  evict: DrainPod[]
  /** They belong to the node: DaemonSets' pods, and those that its kubelet has from a file. */
  stay: DrainPod[]
  /** Nobody would make them anew; evicted only by force. */
  bare: DrainPod[]
}

const MIRROR = 'kubernetes.io/config.mirror'

/** As `kubectl drain --ignore-daemonsets --delete-emptydir-data` sorts them. Pure. */
export function planDrain(pods: readonly DrainPod[]): DrainPlan {
  const plan: DrainPlan = { evict: [], stay: [], bare: [] }
  for (const pod of pods) {
    const owner = pod.metadata.ownerReferences?.find((one) => one.controller)
    const isOver = pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed'
    if (pod.metadata.annotations?.[MIRROR] !== undefined || (owner?.kind === 'DaemonSet' && !isOver))
      plan.stay.push(pod)
    else if (owner || isOver) plan.evict.push(pod)
    else plan.bare.push(pod)
  }
  return plan
}

/**
 * Cordons the node, evicts its pods and waits until they are gone. Evictions that are refused for now (429: a disruption budget),
 * and an API that does not answer for a moment, are tried again until the time is over; the node then stays cordoned.
 * @throws UserError that says what is left
 */
export async function drainNode(
  api: DrainApi,
  name: string,
  options: DrainOptions,
  say: (text: string) => void = () => undefined,
): Promise<{ evicted: number }> {
  const { lookMs = LOOK_MS, repeatMs = REPEAT_MS } = options
  const until = performance.now() + options.timeoutMs
  const lasting = async <T>(what: () => Promise<T>): Promise<T> => {
    for (;;)
      try {
        return await what()
      } catch (error) {
        // A master that is being upgraded, say: another one answers in a moment.
        const mayPass = error instanceof KubeApiError && (error.status === 0 || error.status >= 500)
        if (!mayPass || performance.now() > until) throw error
        say(`${error.message}; trying again`)
        await sleep(lookMs)
      }
  }
  await lasting(() => api.setUnschedulable(name, true))
  say(`${name} takes no more pods`)
  const first = planDrain(await lasting(() => api.podsOn(name)))
  if (first.bare.length > 0 && !options.force)
    throw new UserError(
      `${named(first.bare)}: no controller would make them anew on another node; --force deletes them. ${name} stays cordoned (capstan node uncordon ${name})`,
    )
  if (first.stay.length > 0) say(`left on the node, to which they belong: ${named(first.stay)}`)
  if ([...first.evict, ...first.bare].some((pod) => pod.spec?.volumes?.some((volume) => volume.emptyDir)))
    say('what lies in emptyDir volumes goes with their pods')

  const evicted = new Set<string>()
  /** By uid: why a pod may not be evicted yet, and when to ask again. */
  const refused = new Map<string, { why: string; againMs: number }>()
  for (;;) {
    // Looked at anew each time: one may have been bound at the last moment.
    const { evict, bare } = planDrain(await lasting(() => api.podsOn(name)))
    const left = [...evict, ...bare]
    if (left.length === 0) return { evicted: evicted.size }
    if (performance.now() > until) {
      const states = left.map((pod) => `${named([pod])}: ${refused.get(pod.metadata.uid)?.why ?? 'is still ending'}`)
      throw new UserError(
        `${name} is not empty after ${options.timeoutMs / 1000} s (${states.join('; ')}); it stays cordoned`,
      )
    }
    for (const pod of left) {
      const { uid, deletionTimestamp } = pod.metadata
      const mayEndSooner = options.gracePeriodSeconds !== undefined
      if (evicted.has(uid) || (deletionTimestamp !== undefined && !mayEndSooner)) continue
      const before = refused.get(uid)
      if (before && performance.now() < before.againMs) continue
      try {
        await lasting(() => api.evict(pod, options.gracePeriodSeconds))
        evicted.add(uid)
        refused.delete(uid)
        say(`evicted ${named([pod])}`)
      } catch (error) {
        if (!(error instanceof KubeApiError) || error.status !== 429) throw error
        if (!before) say(`${named([pod])} must wait: ${error.message}`)
        refused.set(uid, { why: error.message, againMs: performance.now() + repeatMs })
      }
    }
    await sleep(lookMs)
  }
}

const named = (pods: readonly DrainPod[]) =>
  pods.map(({ metadata: { namespace, name } }) => `${namespace}/${name}`).join(', ')

/** Over HTTPS. */
export function drainApi(api: KubeApi): DrainApi {
  const nodePath = (name: string) => `/api/v1/nodes/${encodeURIComponent(name)}`
  return {
    async setUnschedulable(node, unschedulable) {
      // Null takes the field away: that is how a node says that it may be used.
      await api.mergePatch(nodePath(node), { spec: { unschedulable: unschedulable ? true : null } })
    },
    async podsOn(node) {
      const selector = encodeURIComponent(`spec.nodeName=${node}`)
      return (await api.get<{ items: DrainPod[] }>(`/api/v1/pods?fieldSelector=${selector}`)).items
    },
    async evict({ metadata: { name, namespace, uid } }, gracePeriodSeconds) {
      const body = {
        apiVersion: 'policy/v1',
        kind: 'Eviction',
        metadata: { name, namespace },
        // Of this very pod: a StatefulSet's next one has the same name.
        deleteOptions: { preconditions: { uid }, ...(gracePeriodSeconds === undefined ? {} : { gracePeriodSeconds }) },
      }
      try {
        await api.post(`/api/v1/namespaces/${namespace}/pods/${name}/eviction`, body)
      } catch (error) {
        if (!(error instanceof KubeApiError) || (error.status !== 404 && error.status !== 409)) throw error
      }
    },
  }
}

export interface NodeCommandOptions {
  /** A master's directory, with an `admin.conf`. */
  data: string
  /** Instead of that. */
  kubeconfig?: string
}

async function withApi<T>(
  options: NodeCommandOptions,
  name: string,
  work: (api: DrainApi, progress: Progress) => Promise<T>,
): Promise<T> {
  const api = KubeApi.fromKubeconfig(options.kubeconfig ?? join(options.data, 'admin.conf'))
  try {
    return await work(drainApi(api), new Progress())
  } catch (error) {
    if (!(error instanceof KubeApiError)) throw error
    throw new UserError(error.status === 404 ? `there is no node ${name}` : error.message)
  } finally {
    api.close()
  }
}

export async function drainCommand(options: NodeCommandOptions & DrainOptions, name: string): Promise<void> {
  await withApi(options, name, async (api, progress) => {
    const { evicted } = await drainNode(api, name, options, (text) => progress.step(text))
    progress.done(`${name} is empty (${evicted} pods evicted); its machine may be stopped`)
  })
}

export async function cordonCommand(options: NodeCommandOptions, name: string, cordon: boolean): Promise<void> {
  await withApi(options, name, async (api, progress) => {
    await api.setUnschedulable(name, cordon)
    progress.done(cordon ? `${name} takes no more pods` : `${name} takes pods again`)
  })
}
