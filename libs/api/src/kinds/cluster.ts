import { invalid, notSupported, required, type StatusCause } from '../causes.js'
import { asList, asNumber, asObject, asText, isObject, type Json, type KubeObject } from '../kube-object.js'
import { configKey, dns1123Label, qualifiedName } from '../names.js'
import { formatAge } from '../time.js'
import { ageColumn, byteLength, defineKind, fill, immutable, nameColumn, specOf, statusOf } from './define.js'

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
const OLD_ROLE_LABEL = 'kubernetes.io/role'

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
        Object.entries(o.metadata.labels ?? {})
          .map(([label, value]) =>
            label.startsWith(ROLE_LABEL) ? label.slice(ROLE_LABEL.length) : label === OLD_ROLE_LABEL ? value : '',
          )
          .filter((role) => role !== '')
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

const DATA_BYTES_MAX = 1024 * 1024

/** `sizeOf`: bytes that a value stands for. */
function validateData(o: KubeObject, fields: Record<string, (value: string) => number>): StatusCause[] {
  const causes: StatusCause[] = []
  let bytes = 0
  for (const [field, sizeOf] of Object.entries(fields))
    for (const [key, value] of Object.entries(asObject(o[field]))) {
      const wrong = configKey(key)
      if (wrong) causes.push(invalid(`${field}[${key}]`, key, wrong))
      if (field === 'binaryData' && Object.hasOwn(asObject(o['data']), key))
        causes.push(invalid(`binaryData[${key}]`, key, 'duplicate of key present in data'))
      bytes += sizeOf(asText(value))
    }
  if (bytes > DATA_BYTES_MAX)
    causes.push({
      reason: 'FieldValueTooLong',
      message: `Too long: may not be more than ${DATA_BYTES_MAX} bytes`,
      field: '',
    })
  return causes
}

const base64Bytes = (text: string): number => Math.floor(text.replace(/=+$/, '').length * 0.75)

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
  validate: (o) => validateData(o, { data: byteLength, binaryData: base64Bytes }),
  validateUpdate: (o, old) => immutableData(o, old, ['data', 'binaryData']),
})

function toBase64(text: string): string {
  let binary = ''
  for (const byte of new TextEncoder().encode(text)) binary += String.fromCharCode(byte)
  return btoa(binary)
}

/** What secrets of the known types must hold. */
function validateSecretType(o: KubeObject): StatusCause[] {
  const data = asObject(o['data'])
  const missing = (key: string) => (Object.hasOwn(data, key) ? [] : [required(`data[${key}]`)])
  switch (o['type']) {
    case 'kubernetes.io/service-account-token': {
      const annotation = 'kubernetes.io/service-account.name'
      return o.metadata.annotations?.[annotation] ? [] : [required(`metadata.annotations[${annotation}]`)]
    }
    case 'kubernetes.io/tls':
      return [...missing('tls.crt'), ...missing('tls.key')]
    case 'kubernetes.io/ssh-auth':
      return missing('ssh-privatekey')
    case 'kubernetes.io/basic-auth':
      return Object.hasOwn(data, 'password') ? [] : missing('username')
    case 'kubernetes.io/dockerconfigjson':
      return [...missing('.dockerconfigjson'), ...notJson(data, '.dockerconfigjson')]
    case 'kubernetes.io/dockercfg':
      return [...missing('.dockercfg'), ...notJson(data, '.dockercfg')]
    default:
      return []
  }
}

function notJson(data: Json, key: string): StatusCause[] {
  if (!Object.hasOwn(data, key)) return []
  try {
    JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(asText(data[key])), (c) => c.charCodeAt(0))))
    return []
  } catch {
    // The parser's own words would show what is secret.
    return [invalid(`data[${key}]`, '<secret contents redacted>', 'must be valid JSON')]
  }
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
  validate: (o) => [...validateData(o, { data: base64Bytes }), ...validateSecretType(o)],
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

const firstSeen = (o: KubeObject) => o['firstTimestamp'] ?? o['eventTime']
const lastSeen = (o: KubeObject) =>
  asObject(o['series'])['lastObservedTime'] ?? o['lastTimestamp'] ?? firstSeen(o) ?? o.metadata.creationTimestamp

export const event = defineKind({
  kind: 'Event',
  resource: 'events',
  shortNames: ['ev'],
  definition: 'io.k8s.api.core.v1.Event',
  columns: [
    { name: 'Last Seen', cell: (o, now) => formatAge(lastSeen(o), now) },
    { name: 'Type', cell: (o) => asText(o['type']) },
    { name: 'Reason', cell: (o) => asText(o['reason']) },
    { name: 'Object', cell: (o) => [involved('kind')(o).toLowerCase(), involved('name')(o)].filter(Boolean).join('/') },
    { name: 'Subobject', wide: true, cell: (o) => involved('fieldPath')(o) },
    {
      name: 'Source',
      wide: true,
      cell(o) {
        const { component, host } = asObject(o['source'])
        const [by, where] = [
          asText(component) || asText(o['reportingComponent']),
          asText(host) || asText(o['reportingInstance']),
        ]
        return where === '' ? by : `${by}, ${where}`
      },
    },
    { name: 'Message', cell: (o) => asText(o['message']).trim() },
    { name: 'First Seen', wide: true, cell: (o, now) => formatAge(firstSeen(o), now) },
    {
      name: 'Count',
      type: 'integer',
      wide: true,
      cell: (o) => asNumber(asObject(o['series'])['count']) ?? (asNumber(o['count']) || 1),
    },
    { ...nameColumn, wide: true },
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
    source: (o) => asText(asObject(o['source'])['component']) || asText(o['reportingComponent']),
    reportingComponent: (o) => asText(o['reportingComponent']),
  },
})
