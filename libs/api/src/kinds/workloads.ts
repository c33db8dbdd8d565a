import { forbidden, invalid, notSupported, required, type StatusCause } from '../causes.js'
import { asList, asNumber, asObject, asText, isObject, type Json, type KubeObject } from '../kube-object.js'
import { labelSelectorMatcher } from '../selectors.js'
import { validateLabelSelector } from './affinity.js'
import { ageColumn, type ColumnFact, defineKind, fill, immutable, selectorText, specOf, statusOf } from './define.js'
import { defaultPodSpec, validateTemplate } from './pod-spec.js'

/** Deployment, ReplicaSet, ReplicationController: a template, a selector and a number of replicas. */

export function defaultTemplate(o: KubeObject): void {
  const template = specOf(o)['template']
  if (isObject(template) && isObject(template['spec'])) defaultPodSpec(template['spec'])
}

const templateContainers = (o: KubeObject): Json[] =>
  asList(asObject(asObject(specOf(o)['template'])['spec'])['containers'])
export const containerColumns = (selector?: (o: KubeObject) => string): ColumnFact[] => [
  {
    name: 'Containers',
    wide: true,
    cell: (o) =>
      templateContainers(o)
        .map((c) => asText(c['name']))
        .join(','),
  },
  {
    name: 'Images',
    wide: true,
    cell: (o) =>
      templateContainers(o)
        .map((c) => asText(c['image']))
        .join(','),
  },
  ...(selector ? [{ name: 'Selector', wide: true, cell: selector }] : []),
]
export const count = (value: unknown) => asNumber(value) ?? 0
const labelSelectorText = (o: KubeObject) => selectorText(asObject(specOf(o)['selector'])) || '<none>'
const mapSelectorText = (o: KubeObject) => selectorText({ matchLabels: asObject(specOf(o)['selector']) }) || '<none>'

const replicaColumns = (selector: (o: KubeObject) => string): ColumnFact[] => [
  { name: 'Desired', type: 'integer', cell: (o) => count(specOf(o)['replicas']) },
  { name: 'Current', type: 'integer', cell: (o) => count(statusOf(o)['replicas']) },
  { name: 'Ready', type: 'integer', cell: (o) => count(statusOf(o)['readyReplicas']) },
  ageColumn,
  ...containerColumns(selector),
]

export function validateReplicas(spec: Json): StatusCause[] {
  return ['replicas', 'minReadySeconds', 'revisionHistoryLimit', 'progressDeadlineSeconds']
    .filter((field) => (asNumber(spec[field]) ?? 0) < 0)
    .map((field) => invalid(`spec.${field}`, spec[field], 'must be greater than or equal to 0'))
}

/** A selector that is there, is not empty, and fits the template's labels. */
export function validateSelector(spec: Json, kind = 'deployment'): StatusCause[] {
  const { selector } = spec
  const labels = asObject(asObject(asObject(spec['template'])['metadata'])['labels']) as Record<string, string>
  const noMatch = invalid('spec.template.metadata.labels', labels, '`selector` does not match template `labels`')
  if (!isObject(selector)) return [required('spec.selector'), noMatch]
  const causes = validateLabelSelector(selector, 'spec.selector')
  if (Object.keys(asObject(selector['matchLabels'])).length + asList(selector['matchExpressions']).length === 0)
    causes.push(invalid('spec.selector', selector, `empty selector is invalid for ${kind}`))
  else if (causes.length === 0 && !labelSelectorMatcher(selector)(labels)) causes.push(noMatch)
  return causes
}

function validateWorkload(o: KubeObject): StatusCause[] {
  const spec = specOf(o)
  return [...validateReplicas(spec), ...validateSelector(spec), ...validateLongRunning(spec, 'ReplicaSet')]
}

/** The template of pods that are to run for good. */
export function validateLongRunning(spec: Json, kind: string): StatusCause[] {
  // One that is missing is taken for an empty one: Kubernetes then asks for its containers.
  const template = asObject(spec['template'])
  const causes = validateTemplate(template, 'spec.template')
  const restart = asObject(template['spec'])['restartPolicy']
  if (restart !== undefined && restart !== 'Always')
    causes.push(notSupported('spec.template.spec.restartPolicy', restart, ['Always']))
  if (asObject(template['spec'])['activeDeadlineSeconds'] !== undefined)
    causes.push(
      forbidden('spec.template.spec.activeDeadlineSeconds', `activeDeadlineSeconds in ${kind} is not Supported`),
    )
  return causes
}

const PERCENT = /^\d+%$/

/** A whole number, or a percentage. */
export function validateAmount(value: unknown, at: string): StatusCause[] {
  if (typeof value === 'string' && !PERCENT.test(value))
    return [
      invalid(
        at,
        value,
        "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
      ),
    ]
  if (typeof value === 'number' && value < 0) return [invalid(at, value, 'must be greater than or equal to 0')]
  return []
}

export function validateMaxUnavailable(value: unknown, at: string): StatusCause[] {
  const causes = validateAmount(value, at)
  if (causes.length === 0 && typeof value === 'string' && Number.parseInt(value, 10) > 100)
    causes.push(invalid(at, value, 'must not be greater than 100%'))
  return causes
}

function validateStrategy(o: KubeObject): StatusCause[] {
  const strategy = asObject(specOf(o)['strategy'])
  const causes: StatusCause[] = []
  const { type } = strategy
  if (type !== 'Recreate' && type !== 'RollingUpdate')
    return [notSupported('spec.strategy.type', type ?? '', ['Recreate', 'RollingUpdate'])]
  const rolling = strategy['rollingUpdate']
  if (type === 'Recreate') {
    if (rolling != null)
      causes.push(forbidden('spec.strategy.rollingUpdate', "may not be specified when strategy `type` is 'Recreate'"))
    return causes
  }
  const numbers = (['maxUnavailable', 'maxSurge'] as const).map((field) => {
    const value = asObject(rolling)[field]
    const at = `spec.strategy.rollingUpdate.${field}`
    causes.push(...(field === 'maxUnavailable' ? validateMaxUnavailable : validateAmount)(value, at))
    return typeof value === 'string' ? Number.parseInt(value, 10) : value
  })
  if (numbers.every((n) => n === 0))
    causes.push(invalid('spec.strategy.rollingUpdate.maxUnavailable', 0, 'may not be 0 when `maxSurge` is 0'))
  return causes
}

/** A pod that is not ready for long enough could never be called progress. */
function validateDeadline(spec: Json): StatusCause[] {
  const deadline = asNumber(spec['progressDeadlineSeconds'])
  if (deadline === undefined || deadline > (asNumber(spec['minReadySeconds']) ?? 0)) return []
  return [invalid('spec.progressDeadlineSeconds', deadline, 'must be greater than minReadySeconds')]
}

export const deployment = defineKind({
  group: 'apps',
  kind: 'Deployment',
  resource: 'deployments',
  shortNames: ['deploy'],
  categories: ['all'],
  hasGeneration: true,
  definition: 'io.k8s.api.apps.v1.Deployment',
  subresources: ['status', 'scale'],
  columns: [
    { name: 'Ready', cell: (o) => `${count(statusOf(o)['readyReplicas'])}/${count(specOf(o)['replicas'])}` },
    { name: 'Up-to-date', type: 'integer', cell: (o) => count(statusOf(o)['updatedReplicas']) },
    { name: 'Available', type: 'integer', cell: (o) => count(statusOf(o)['availableReplicas']) },
    ageColumn,
    ...containerColumns(labelSelectorText),
  ],
  setDefaults(o) {
    const { spec } = o
    if (!isObject(spec)) return
    fill(spec, 'replicas', 1)
    fill(spec, 'revisionHistoryLimit', 10)
    fill(spec, 'progressDeadlineSeconds', 600)
    fill(spec, 'strategy', {})
    const strategy = asObject(spec['strategy'])
    if (!strategy['type']) strategy['type'] = 'RollingUpdate'
    if (strategy['type'] === 'RollingUpdate') {
      fill(strategy, 'rollingUpdate', {})
      fill(asObject(strategy['rollingUpdate']), 'maxUnavailable', '25%')
      fill(asObject(strategy['rollingUpdate']), 'maxSurge', '25%')
    }
    defaultTemplate(o)
  },
  validate: (o) => [...validateWorkload(o), ...validateStrategy(o), ...validateDeadline(specOf(o))],
  validateUpdate: (o, old) => immutable(specOf(o), specOf(old), 'selector', 'spec.selector'),
})

export const replicaSet = defineKind({
  group: 'apps',
  kind: 'ReplicaSet',
  resource: 'replicasets',
  shortNames: ['rs'],
  categories: ['all'],
  hasGeneration: true,
  definition: 'io.k8s.api.apps.v1.ReplicaSet',
  subresources: ['status', 'scale'],
  columns: replicaColumns(labelSelectorText),
  setDefaults(o) {
    if (!isObject(o['spec'])) return
    fill(o['spec'], 'replicas', 1)
    defaultTemplate(o)
  },
  prepareForCreate(o) {
    o['status'] = { replicas: 0 }
  },
  validate: validateWorkload,
  validateUpdate: (o, old) => immutable(specOf(o), specOf(old), 'selector', 'spec.selector'),
  fields: { 'status.replicas': (o) => String(count(statusOf(o)['replicas'])) },
})

export const replicationController = defineKind({
  kind: 'ReplicationController',
  resource: 'replicationcontrollers',
  shortNames: ['rc'],
  categories: ['all'],
  hasGeneration: true,
  definition: 'io.k8s.api.core.v1.ReplicationController',
  subresources: ['status', 'scale'],
  columns: replicaColumns(mapSelectorText),
  setDefaults(o) {
    const { spec } = o
    if (!isObject(spec)) return
    fill(spec, 'replicas', 1)
    const labels = asObject(asObject(spec['template'])['metadata'])['labels']
    // An old kind: what it selects, and its own labels, follow from the template.
    if (isObject(labels)) {
      if (Object.keys(asObject(spec['selector'])).length === 0) spec['selector'] = { ...labels }
      if (Object.keys(o.metadata.labels ?? {}).length === 0) o.metadata.labels = { ...labels } as Record<string, string>
    }
    defaultTemplate(o)
  },
  prepareForCreate(o) {
    o['status'] = { replicas: 0 }
  },
  validate(o) {
    const spec = specOf(o)
    const selector = asObject(spec['selector'])
    const causes = validateReplicas(spec)
    if (Object.keys(selector).length === 0) causes.push(required('spec.selector'))
    if (!isObject(spec['template'])) return [...causes, required('spec.template')]
    const labels = asObject(asObject(spec['template']['metadata'])['labels']) as Record<string, string>
    if (!labelSelectorMatcher({ matchLabels: selector })(labels))
      causes.push(invalid('spec.template.metadata.labels', labels, '`selector` does not match template `labels`'))
    return [...causes, ...validateTemplate(spec['template'], 'spec.template')]
  },
  fields: { 'status.replicas': (o) => String(count(statusOf(o)['replicas'])) },
})
