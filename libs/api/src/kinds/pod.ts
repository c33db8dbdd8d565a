import { forbidden, invalid, type StatusCause } from '../causes.js'
import { asList, asNumber, asObject, asText, isObject, type Json, type KubeObject, sameJson } from '../kube-object.js'
import { parseQuantity } from '../quantity.js'
import { formatAge } from '../time.js'
import { ageColumn, defineKind, specOf, statusOf } from './define.js'
import { defaultPodSpec, defaultRequests, validatePodSpec } from './pod-spec.js'

const CONDITION_TEXT = '<none>'

/**
 * Guaranteed: every container limits cpu and memory, and requests as much. BestEffort: none requests or limits either. Of a
 * decoded spec; a request that is not set is the limit, zero is not set.
 */
export function qosClass(spec: Json): 'Guaranteed' | 'Burstable' | 'BestEffort' {
  const containers = [...asList(spec['containers']), ...asList(spec['initContainers'])].map((container) => {
    const { requests, limits } = asObject(container['resources'])
    return ['cpu', 'memory'].map((name) => {
      const limit = parseQuantity(String(asObject(limits)[name] ?? 0))
      const request = parseQuantity(String(asObject(requests)[name] ?? limit))
      return { limit, request }
    })
  })
  const all = containers.flat()
  if (all.every(({ limit, request }) => limit.nanos === 0n && request.nanos === 0n)) return 'BestEffort'
  const isGuaranteed = all.every(({ limit, request }) => limit.nanos > 0n && limit.compare(request) === 0)
  return isGuaranteed ? 'Guaranteed' : 'Burstable'
}

/** The STATUS and RESTARTS columns, worked out as kubectl's server does. */
function summary(pod: KubeObject, nowMs: number): { ready: string; status: string; restarts: string } {
  const spec = specOf(pod)
  const status = statusOf(pod)
  const total =
    asList(spec['containers']).length +
    asList(spec['initContainers']).filter((c) => c['restartPolicy'] === 'Always').length
  let reason = asText(status['reason']) || asText(status['phase'])
  if (asList(status['conditions']).some((c) => c['type'] === 'PodScheduled' && c['reason'] === 'SchedulingGated'))
    reason = 'SchedulingGated'
  let restarts = 0
  let lastRestart = 0
  let ready = 0
  const countRestarts = (container: Json) => {
    restarts += asNumber(container['restartCount']) ?? 0
    const finished = Date.parse(asText(asObject(asObject(container['lastState'])['terminated'])['finishedAt']))
    if (finished > lastRestart) lastRestart = finished
  }
  const inits = asList(status['initContainerStatuses'])
  const sidecars = new Set(
    asList(spec['initContainers'])
      .filter((c) => c['restartPolicy'] === 'Always')
      .map((c) => c['name']),
  )
  let initializing = false
  for (const [i, container] of inits.entries()) {
    countRestarts(container)
    const state = asObject(container['state'])
    const terminated = isObject(state['terminated']) ? state['terminated'] : undefined
    const waiting = asObject(state['waiting'])
    if (terminated && asNumber(terminated['exitCode']) === 0) continue
    if (sidecars.has(container['name']) && container['started'] === true) {
      if (container['ready'] === true) ready++
      continue
    }
    if (terminated)
      reason = asText(terminated['reason']) ? `Init:${asText(terminated['reason'])}` : exitText('Init:', terminated)
    else if (asText(waiting['reason']) && waiting['reason'] !== 'PodInitializing')
      reason = `Init:${asText(waiting['reason'])}`
    else reason = `Init:${i}/${asList(spec['initContainers']).length}`
    initializing = true
    break
  }
  if (!initializing) {
    let hasRunning = false
    for (const container of asList(status['containerStatuses']).toReversed()) {
      countRestarts(container)
      const state = asObject(container['state'])
      const waiting = asText(asObject(state['waiting'])['reason'])
      const terminated = isObject(state['terminated']) ? state['terminated'] : undefined
      if (waiting) reason = waiting
      else if (terminated) reason = asText(terminated['reason']) || exitText('', terminated)
      else if (container['ready'] === true && isObject(state['running'])) {
        hasRunning = true
        ready++
      }
    }
    if (reason === 'Completed' && hasRunning)
      reason = asList(status['conditions']).some((c) => c['type'] === 'Ready' && c['status'] === 'True')
        ? 'Running'
        : 'NotReady'
  }
  if (pod.metadata.deletionTimestamp && status['reason'] === 'NodeLost') reason = 'Unknown'
  else if (pod.metadata.deletionTimestamp && !['Succeeded', 'Failed'].includes(asText(status['phase'])))
    reason = 'Terminating'
  const when = restarts > 0 && lastRestart > 0 ? ` (${formatAge(new Date(lastRestart).toISOString(), nowMs)} ago)` : ''
  return { ready: `${ready}/${total}`, status: reason, restarts: `${restarts}${when}` }
}

const exitText = (prefix: string, terminated: Json) =>
  (asNumber(terminated['signal']) ?? 0) !== 0
    ? `${prefix}Signal:${String(terminated['signal'])}`
    : `${prefix}ExitCode:${String(terminated['exitCode'])}`

/** Fields of the spec with rules of their own for updates; all others stay, but for images. */
const CHANGEABLE = ['activeDeadlineSeconds', 'tolerations', 'schedulingGates', 'terminationGracePeriodSeconds']

function validateUpdate(pod: KubeObject, old: KubeObject, subresource: string): StatusCause[] {
  if (subresource !== '') return []
  const [spec, before] = [specOf(pod), specOf(old)]
  for (const field of ['containers', 'initContainers'])
    if (asList(spec[field]).length !== asList(before[field]).length)
      return [forbidden(`spec.${field}`, 'pod updates may not add or remove containers')]
  return [
    ...deadlineUpdate(spec, before),
    ...tolerationsUpdate(spec, before),
    ...gatesUpdate(spec, before),
    ...restUpdate(spec, before),
  ]
}

function restUpdate(spec: Json, before: Json): StatusCause[] {
  const comparable = (given: Json) => {
    const out = { ...given }
    for (const field of CHANGEABLE) delete out[field]
    for (const field of ['containers', 'initContainers'])
      out[field] = asList(out[field]).map((c) => ({ ...c, image: '' }))
    return out
  }
  const [grace, graceBefore] = [spec['terminationGracePeriodSeconds'], before['terminationGracePeriodSeconds']]
  const graceMayChange = grace === graceBefore || (grace === 1 && (asNumber(graceBefore) ?? 0) < 0)
  if (graceMayChange && sameJson(comparable(spec), comparable(before))) return []
  return [
    forbidden(
      'spec',
      'pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)',
    ),
  ]
}

function deadlineUpdate(spec: Json, before: Json): StatusCause[] {
  const [now, was] = [asNumber(spec['activeDeadlineSeconds']), asNumber(before['activeDeadlineSeconds'])]
  const path = 'spec.activeDeadlineSeconds'
  if (was === undefined) return []
  if (now === undefined) return [invalid(path, null, 'must not update from a positive integer to nil value')]
  return now > was ? [invalid(path, now, 'must be less than or equal to previous value')] : []
}

function tolerationsUpdate(spec: Json, before: Json): StatusCause[] {
  const timeless = (toleration: Json) => ({ ...toleration, tolerationSeconds: undefined })
  const now = asList(spec['tolerations']).map(timeless)
  const isKept = (one: Json) => now.some((other) => sameJson(other, timeless(one)))
  if (asList(before['tolerations']).every(isKept)) return []
  return [forbidden('spec.tolerations', 'existing toleration can not be modified except its tolerationSeconds')]
}

function gatesUpdate(spec: Json, before: Json): StatusCause[] {
  const had = new Set(asList(before['schedulingGates']).map((gate) => gate['name']))
  return asList(spec['schedulingGates'])
    .filter((gate) => !had.has(gate['name']))
    .map((gate) =>
      forbidden(
        'spec.schedulingGates',
        `only deletion is allowed, but found new scheduling gate '${asText(gate['name'])}'`,
      ),
    )
}

export const pod = defineKind({
  kind: 'Pod',
  resource: 'pods',
  shortNames: ['po'],
  categories: ['all'],
  hasGeneration: true,
  definition: 'io.k8s.api.core.v1.Pod',
  subresources: ['status', 'binding', 'eviction', 'log'],
  columns: [
    {
      name: 'Ready',
      description: 'Containers that are ready, and all of them.',
      cell: (o, now) => summary(o, now).ready,
    },
    { name: 'Status', description: 'What the pod does, or why it does not.', cell: (o, now) => summary(o, now).status },
    {
      name: 'Restarts',
      description: 'Restarts of its containers, and when the last one was.',
      cell: (o, now) => summary(o, now).restarts,
    },
    ageColumn,
    { name: 'IP', wide: true, cell: (o) => asText(statusOf(o)['podIP']) || CONDITION_TEXT },
    { name: 'Node', wide: true, cell: (o) => asText(specOf(o)['nodeName']) || CONDITION_TEXT },
    { name: 'Nominated Node', wide: true, cell: (o) => asText(statusOf(o)['nominatedNodeName']) || CONDITION_TEXT },
    {
      name: 'Readiness Gates',
      wide: true,
      cell(o) {
        const gates = asList(specOf(o)['readinessGates'])
        if (gates.length === 0) return CONDITION_TEXT
        const met = gates.filter((g) =>
          asList(statusOf(o)['conditions']).some((c) => c['type'] === g['conditionType'] && c['status'] === 'True'),
        )
        return `${met.length}/${gates.length}`
      },
    },
  ],
  rowConditions(o) {
    const phase = statusOf(o)['phase']
    if (phase !== 'Succeeded' && phase !== 'Failed') return undefined
    return { conditions: [{ type: 'Completed', status: 'True', reason: phase, message: 'The pod has ended.' }] }
  },
  setDefaults(o) {
    if (!isObject(o['spec'])) return
    defaultPodSpec(o['spec'])
    defaultRequests(o['spec'])
    if (o['spec']['enableServiceLinks'] === undefined) o['spec']['enableServiceLinks'] = true
  },
  prepareForCreate(o) {
    o['status'] = { phase: 'Pending', qosClass: qosClass(specOf(o)) }
  },
  validate: (o) => validatePodSpec(specOf(o), 'spec'),
  validateUpdate,
  fields: {
    'spec.nodeName': (o) => asText(specOf(o)['nodeName']),
    'spec.restartPolicy': (o) => asText(specOf(o)['restartPolicy']),
    'spec.schedulerName': (o) => asText(specOf(o)['schedulerName']),
    'spec.serviceAccountName': (o) => asText(specOf(o)['serviceAccountName']),
    'spec.hostNetwork': (o) => String(specOf(o)['hostNetwork'] === true),
    'status.phase': (o) => asText(statusOf(o)['phase']),
    'status.podIP': (o) => asText(statusOf(o)['podIP']),
    'status.nominatedNodeName': (o) => asText(statusOf(o)['nominatedNodeName']),
  },
})
