import { invalid, notSupported, required, type StatusCause } from '../causes.js'
import { asList, asNumber, asObject, asText, isObject, type Json, type KubeObject } from '../kube-object.js'
import { dns1123Label, qualifiedName } from '../names.js'
import { formatAge } from '../time.js'
import { ageColumn, defineKind, fill, immutable, specOf, statusOf } from './define.js'

export const namespace = defineKind({
  kind: 'Namespace',
  resource: 'namespaces',
  shortNames: ['ns'],
  namespaced: false,
  definition: 'io.k8s.api.core.v1.Namespace',
  subresources: ['status', 'finalize'],
  nameRule: dns1123Label,
  columns: [{ name: 'Status', cell: (o) => asText(statusOf(o)['phase']) }, ageColumn],
  setDefaults(o) {
    // Kubernetes puts every namespace's name into its labels.
    if (o.metadata.name) o.metadata.labels = { ...o.metadata.labels, 'kubernetes.io/metadata.name': o.metadata.name }
  },
  prepareForCreate(o) {
    o['spec'] = { finalizers: ['kubernetes'] }
    o['status'] = { phase: 'Active' }
  },
  prepareForUpdate(o, old, subresource) {
    if (subresource !== 'finalize') o['spec'] = old['spec']
  },
  fields: { 'status.phase': (o) => asText(statusOf(o)['phase']) },
})

const ROLE_LABEL = 'node-role.kubernetes.io/'

function addressOf(o: KubeObject, type: string): string {
  return asText(asList(statusOf(o)['addresses']).find((a) => a['type'] === type)?.['address']) || '<none>'
}

function nodeStatus(o: KubeObject): string {
  const ready = asList(statusOf(o)['conditions']).find((c) => c['type'] === 'Ready')
  const state = ready === undefined ? 'Unknown' : ready['status'] === 'True' ? 'Ready' : 'NotReady'
  return specOf(o)['unschedulable'] === true ? `${state},SchedulingDisabled` : state
}

const info = (field: string) => (o: KubeObject) => asText(asObject(statusOf(o)['nodeInfo'])[field]) || '<unknown>'
const TAINT_EFFECTS = ['NoSchedule', 'PreferNoSchedule', 'NoExecute']

export const node = defineKind({
  kind: 'Node',
  resource: 'nodes',
  shortNames: ['no'],
  namespaced: false,
  definition: 'io.k8s.api.core.v1.Node',
  subresources: ['status'],
  columns: [
    { name: 'Status', cell: nodeStatus },
    {
      name: 'Roles',
      cell: (o) =>
        Object.keys(o.metadata.labels ?? {})
          .filter((label) => label.startsWith(ROLE_LABEL))
          .map((label) => label.slice(ROLE_LABEL.length))
          .sort()
          .join(',') || '<none>',
    },
    ageColumn,
    { name: 'Version', cell: info('kubeletVersion') },
    { name: 'Internal-IP', wide: true, cell: (o) => addressOf(o, 'InternalIP') },
    { name: 'External-IP', wide: true, cell: (o) => addressOf(o, 'ExternalIP') },
    { name: 'OS-Image', wide: true, cell: info('osImage') },
    { name: 'Kernel-Version', wide: true, cell: info('kernelVersion') },
    { name: 'Container-Runtime', wide: true, cell: info('containerRuntimeVersion') },
  ],
  validate: (o) =>
    asList(specOf(o)['taints']).flatMap((taint, i): StatusCause[] => {
      const key = asText(taint['key'])
      const wrong = qualifiedName(key)
      const effect = asText(taint['effect'])
      return [
        ...(wrong ? [invalid(`spec.taints[${i}].key`, key, wrong)] : []),
        ...(effect === ''
          ? [required(`spec.taints[${i}].effect`)]
          : TAINT_EFFECTS.includes(effect)
            ? []
            : [notSupported(`spec.taints[${i}].effect`, effect, TAINT_EFFECTS)]),
      ]
    }),
  validateUpdate(o, old) {
    const before = asText(specOf(old)['podCIDR'])
    return before && before !== specOf(o)['podCIDR']
      ? [
          {
            reason: 'FieldValueForbidden',
            message: 'Forbidden: node updates may not change podCIDR except from "" to valid',
            field: 'spec.podCIDR',
          },
        ]
      : []
  },
  fields: { 'spec.unschedulable': (o) => String(specOf(o)['unschedulable'] === true) },
})

const SECRETS_HIDDEN = ['data', 'stringData']
const DATA_BYTES_MAX = 1024 * 1024
const CONFIG_KEY = /^[-._a-zA-Z0-9]+$/

function validateData(o: KubeObject, fields: string[]): StatusCause[] {
  const causes: StatusCause[] = []
  let bytes = 0
  for (const field of fields)
    for (const [key, value] of Object.entries(asObject(o[field]))) {
      if (!CONFIG_KEY.test(key) || key.length > 253)
        causes.push(
          invalid(
            `${field}[${key}]`,
            key,
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
          ),
        )
      bytes += asText(value).length
    }
  if (bytes > DATA_BYTES_MAX)
    causes.push({
      reason: 'FieldValueTooLong',
      message: `Too long: may not be more than ${DATA_BYTES_MAX} bytes`,
      field: fields[0] ?? 'data',
    })
  return causes
}

function immutableData(o: KubeObject, old: KubeObject, fields: string[]): StatusCause[] {
  if (old['immutable'] !== true) return []
  return ['immutable', ...fields].flatMap((field) =>
    immutable(o, old, field, field).map((cause) => ({
      ...cause,
      reason: 'FieldValueForbidden',
      message: 'Forbidden: field is immutable when `immutable` is set',
    })),
  )
}

const dataCount = (o: KubeObject, fields: string[]) =>
  fields.reduce((sum, field) => sum + Object.keys(asObject(o[field])).length, 0)

export const configMap = defineKind({
  kind: 'ConfigMap',
  resource: 'configmaps',
  shortNames: ['cm'],
  definition: 'io.k8s.api.core.v1.ConfigMap',
  columns: [{ name: 'Data', type: 'integer', cell: (o) => dataCount(o, ['data', 'binaryData']) }, ageColumn],
  validate: (o) => validateData(o, ['data', 'binaryData']),
  validateUpdate: (o, old) => immutableData(o, old, ['data', 'binaryData']),
})

const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/

function toBase64(text: string): string {
  let binary = ''
  for (const byte of new TextEncoder().encode(text)) binary += String.fromCharCode(byte)
  return btoa(binary)
}

export const secret = defineKind({
  kind: 'Secret',
  resource: 'secrets',
  definition: 'io.k8s.api.core.v1.Secret',
  columns: [
    { name: 'Type', cell: (o) => asText(o['type']) },
    { name: 'Data', type: 'integer', cell: (o) => dataCount(o, ['data']) },
    ageColumn,
  ],
  setDefaults(o) {
    fill(o, 'type', 'Opaque')
    if (isObject(o['stringData'])) {
      const data: Json = { ...asObject(o['data']) }
      for (const [key, value] of Object.entries(o['stringData'])) data[key] = toBase64(asText(value))
      o['data'] = data
      delete o['stringData']
    }
  },
  validate: (o) => [
    ...validateData(o, SECRETS_HIDDEN),
    ...Object.entries(asObject(o['data'])).flatMap(([key, value]) =>
      BASE64.test(asText(value)) ? [] : [invalid(`data[${key}]`, '<not shown>', 'illegal base64 data')],
    ),
  ],
  validateUpdate: (o, old) => [...immutableData(o, old, ['data']), ...immutable(o, old, 'type', 'type')],
  fields: { type: (o) => asText(o['type']) },
})

export const serviceAccount = defineKind({
  kind: 'ServiceAccount',
  resource: 'serviceaccounts',
  shortNames: ['sa'],
  definition: 'io.k8s.api.core.v1.ServiceAccount',
  columns: [{ name: 'Secrets', type: 'integer', cell: (o) => asList(o['secrets']).length }, ageColumn],
})

export const lease = defineKind({
  group: 'coordination.k8s.io',
  kind: 'Lease',
  resource: 'leases',
  definition: 'io.k8s.api.coordination.v1.Lease',
  columns: [{ name: 'Holder', cell: (o) => asText(specOf(o)['holderIdentity']) }, ageColumn],
  validate(o) {
    const seconds = asNumber(specOf(o)['leaseDurationSeconds'])
    return seconds !== undefined && seconds <= 0
      ? [invalid('spec.leaseDurationSeconds', seconds, 'must be greater than 0')]
      : []
  },
})

const involved = (field: string) => (o: KubeObject) => asText(asObject(o['involvedObject'])[field])

export const event = defineKind({
  kind: 'Event',
  resource: 'events',
  shortNames: ['ev'],
  definition: 'io.k8s.api.core.v1.Event',
  columns: [
    {
      name: 'Last Seen',
      cell: (o, now) =>
        formatAge(
          o['lastTimestamp'] ??
            asObject(o['series'])['lastObservedTime'] ??
            o['eventTime'] ??
            o['firstTimestamp'] ??
            o.metadata.creationTimestamp,
          now,
        ),
    },
    { name: 'Type', cell: (o) => asText(o['type']) },
    { name: 'Reason', cell: (o) => asText(o['reason']) },
    { name: 'Object', cell: (o) => `${involved('kind')(o).toLowerCase()}/${involved('name')(o)}` },
    { name: 'Subobject', wide: true, cell: (o) => involved('fieldPath')(o) },
    {
      name: 'Source',
      wide: true,
      cell: (o) =>
        [
          asText(asObject(o['source'])['component']) || asText(o['reportingComponent']),
          asText(asObject(o['source'])['host']),
        ]
          .filter(Boolean)
          .join(', '),
    },
    { name: 'Message', cell: (o) => asText(o['message']).trim() },
    { name: 'First Seen', wide: true, cell: (o, now) => formatAge(o['firstTimestamp'] ?? o['eventTime'], now) },
    { name: 'Count', type: 'integer', wide: true, cell: (o) => asNumber(o['count']) ?? 1 },
  ],
  validate(o) {
    const own = o.metadata.namespace
    const about = involved('namespace')(o)
    // Events about what lives in no namespace stand in `default`.
    return about !== '' && about !== own
      ? [invalid('involvedObject.namespace', about, 'does not match event.namespace')]
      : []
  },
  fields: {
    ...Object.fromEntries(
      ['kind', 'namespace', 'name', 'uid', 'apiVersion', 'resourceVersion', 'fieldPath'].map((field) => [
        `involvedObject.${field}`,
        involved(field),
      ]),
    ),
    reason: (o) => asText(o['reason']),
    type: (o) => asText(o['type']),
    source: (o) => asText(asObject(o['source'])['component']),
    reportingComponent: (o) => asText(o['reportingComponent']),
  },
})
