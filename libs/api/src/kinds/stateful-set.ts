import { forbidden, invalid, notSupported, required, type StatusCause } from '../causes.js'
import { asList, asNumber, asObject, asText, isObject, type Json, type KubeObject, sameJson } from '../kube-object.js'
import { dns1123Label } from '../names.js'
import { ageColumn, defineKind, fill, immutable, specOf, statusOf } from './define.js'
import {
  containerColumns,
  count,
  defaultTemplate,
  validateLongRunning,
  validateMaxUnavailable,
  validateReplicas,
  validateSelector,
} from './workloads.js'

/** StatefulSet: pods with names that stay; and ControllerRevision, in which it keeps the templates that it had. */

const POD_MANAGEMENT = ['OrderedReady', 'Parallel']
const RETENTION = ['Delete', 'Retain']

/** What an update may touch. */
const CHANGEABLE = [
  'replicas',
  'ordinals',
  'template',
  'updateStrategy',
  'revisionHistoryLimit',
  'persistentVolumeClaimRetentionPolicy',
  'minReadySeconds',
]

function validateUpdateStrategy(spec: Json): StatusCause[] {
  const strategy = asObject(spec['updateStrategy'])
  const rolling = strategy['rollingUpdate']
  switch (strategy['type']) {
    case 'OnDelete':
      return rolling === undefined
        ? []
        : [invalid('spec.updateStrategy.rollingUpdate', rolling, "only allowed for updateStrategy 'RollingUpdate'")]
    case 'RollingUpdate': {
      const { partition, maxUnavailable } = asObject(rolling)
      const path = 'spec.updateStrategy.rollingUpdate'
      const causes: StatusCause[] = []
      if ((asNumber(partition) ?? 0) < 0)
        causes.push(invalid(`${path}.partition`, partition, 'must be greater than or equal to 0'))
      causes.push(...validateMaxUnavailable(maxUnavailable, `${path}.maxUnavailable`))
      if (maxUnavailable === 0 || maxUnavailable === '0%')
        causes.push(invalid(`${path}.maxUnavailable`, maxUnavailable, 'cannot be 0'))
      return causes
    }
    default:
      return [invalid('spec.updateStrategy', strategy, "must be 'RollingUpdate' or 'OnDelete'")]
  }
}

function validate(o: KubeObject): StatusCause[] {
  const spec = specOf(o)
  const causes = [...validateReplicas(spec), ...validateUpdateStrategy(spec)]
  const management = spec['podManagementPolicy']
  if (!POD_MANAGEMENT.includes(management as string))
    causes.push(notSupported('spec.podManagementPolicy', management ?? '', POD_MANAGEMENT))
  const { start } = asObject(spec['ordinals'])
  if ((asNumber(start) ?? 0) < 0)
    causes.push(invalid('spec.ordinals.start', start, 'must be greater than or equal to 0'))
  // It becomes the subdomain of the pods.
  const service = asText(spec['serviceName'])
  const wrong = service === '' ? undefined : dns1123Label(service)
  if (wrong) causes.push(invalid('spec.serviceName', service, wrong))
  for (const field of ['whenDeleted', 'whenScaled']) {
    const policy = asObject(spec['persistentVolumeClaimRetentionPolicy'])[field]
    if (policy !== undefined && !RETENTION.includes(policy as string))
      causes.push(notSupported(`spec.persistentVolumeClaimRetentionPolicy.${field}`, policy, RETENTION))
  }
  if (asList(spec['volumeClaimTemplates']).length > 0)
    causes.push(
      forbidden(
        'spec.volumeClaimTemplates',
        'persistent volume claims are not built yet; use emptyDir or hostPath volumes in the template',
      ),
    )
  return [...causes, ...validateSelector(spec, 'statefulset'), ...validateLongRunning(spec, 'StatefulSet')]
}

function validateUpdate(o: KubeObject, old: KubeObject): StatusCause[] {
  const fixed = (spec: Json) => Object.fromEntries(Object.entries(spec).filter(([name]) => !CHANGEABLE.includes(name)))
  if (sameJson(fixed(specOf(o)), fixed(specOf(old)))) return []
  const list = CHANGEABLE.map((name) => `'${name}'`)
  return [
    forbidden(
      'spec',
      `updates to statefulset spec for fields other than ${list.slice(0, -1).join(', ')} and ${list.at(-1)} are forbidden`,
    ),
  ]
}

export const statefulSet = defineKind({
  group: 'apps',
  kind: 'StatefulSet',
  resource: 'statefulsets',
  shortNames: ['sts'],
  categories: ['all'],
  hasGeneration: true,
  definition: 'io.k8s.api.apps.v1.StatefulSet',
  subresources: ['status', 'scale'],
  // The names of its pods, which follow from its own, are labels of theirs.
  nameRule: dns1123Label,
  columns: [
    { name: 'Ready', cell: (o) => `${count(statusOf(o)['readyReplicas'])}/${count(specOf(o)['replicas'])}` },
    ageColumn,
    ...containerColumns(),
  ],
  setDefaults(o) {
    const { spec } = o
    if (!isObject(spec)) return
    fill(spec, 'replicas', 1)
    fill(spec, 'revisionHistoryLimit', 10)
    if (!spec['podManagementPolicy']) spec['podManagementPolicy'] = 'OrderedReady'
    fill(spec, 'updateStrategy', {})
    const strategy = asObject(spec['updateStrategy'])
    if (!strategy['type']) strategy['type'] = 'RollingUpdate'
    if (strategy['type'] === 'RollingUpdate') {
      fill(strategy, 'rollingUpdate', {})
      fill(asObject(strategy['rollingUpdate']), 'partition', 0)
      fill(asObject(strategy['rollingUpdate']), 'maxUnavailable', 1)
    }
    // Kept for the day on which there are claims.
    fill(spec, 'persistentVolumeClaimRetentionPolicy', {})
    const retention = asObject(spec['persistentVolumeClaimRetentionPolicy'])
    for (const field of ['whenDeleted', 'whenScaled']) if (!retention[field]) retention[field] = 'Retain'
    defaultTemplate(o)
  },
  prepareForCreate(o) {
    o['status'] = { replicas: 0, availableReplicas: 0 }
  },
  validate,
  validateUpdate,
})

function controllerText(o: KubeObject): string {
  const owner = (o.metadata.ownerReferences ?? []).find((reference) => reference.controller === true)
  if (!owner) return '<none>'
  // An object of an older life may lack what is required today: it is shown all the same.
  const [group = '', version] = (owner.apiVersion ?? '').split('/')
  const kind = (owner.kind ?? '').toLowerCase()
  return version === undefined ? `${kind}/${owner.name}` : `${kind}.${group}/${owner.name}`
}

export const controllerRevision = defineKind({
  group: 'apps',
  kind: 'ControllerRevision',
  resource: 'controllerrevisions',
  definition: 'io.k8s.api.apps.v1.ControllerRevision',
  columns: [
    { name: 'Controller', cell: controllerText },
    { name: 'Revision', type: 'integer', cell: (o) => count(o['revision']) },
    ageColumn,
  ],
  setDefaults(o) {
    fill(o as unknown as Json, 'revision', 0)
  },
  validate(o) {
    const causes: StatusCause[] = []
    if (count(o['revision']) < 0) causes.push(invalid('revision', o['revision'], 'must be greater than or equal to 0'))
    if (!isObject(o['data'])) causes.push(required('data', 'data is mandatory'))
    return causes
  },
  validateUpdate: (o, old) => immutable(o as unknown as Json, old as unknown as Json, 'data', 'data'),
})
