import { duplicate, forbidden, invalid, notSupported, required, type StatusCause } from '../causes.js'
import { setOwn } from '../decode.js'
import { asList, asNumber, asObject, asText, isObject, type Json } from '../kube-object.js'
import { configKey, dns1123Label, dns1123Subdomain, envName, portName, portNumber, qualifiedName } from '../names.js'
import { parseQuantity, QUANTITY_SYNTAX_MESSAGE, type Quantity } from '../quantity.js'
import { validateAffinity, validateLabelSelector } from './affinity.js'
import { fill, labelCauses } from './define.js'
import { validateLocalPath, validateVolumes } from './volumes.js'

/** Fills in what Kubernetes fills in for the spec of a pod or of a pod template. */
export function defaultPodSpec(spec: Json): void {
  fill(spec, 'restartPolicy', 'Always')
  fill(spec, 'terminationGracePeriodSeconds', 30)
  fill(spec, 'dnsPolicy', 'ClusterFirst')
  fill(spec, 'securityContext', {})
  fill(spec, 'schedulerName', 'default-scheduler')
  if (spec['hostNetwork'] === true)
    for (const container of containersOf(spec))
      for (const port of asList(container['ports'])) fill(port, 'hostPort', port['containerPort'])
  for (const container of containersOf(spec)) defaultContainer(container)
  for (const volume of list(spec['volumes'])) defaultVolume(volume)
  for (const account of ['serviceAccountName', 'serviceAccount']) if (spec[account] === '') delete spec[account]
  if (spec['serviceAccountName'] !== undefined) spec['serviceAccount'] = spec['serviceAccountName']
  else if (spec['serviceAccount'] !== undefined) spec['serviceAccountName'] = spec['serviceAccount']
}

/** The objects themselves, not copies: defaults are written into them. */
const list = (value: unknown): Json[] => (Array.isArray(value) ? value.filter(isObject) : [])
const containersOf = (spec: Json): Json[] => [...list(spec['initContainers']), ...list(spec['containers'])]

/** A limit without a request is the request too. Of pods only: templates stay as they were written. */
export function defaultRequests(spec: Json): void {
  for (const container of containersOf(spec)) {
    const resources = asObject(container['resources'])
    if (!isObject(resources['limits'])) continue
    fill(resources, 'requests', {})
    const requests = asObject(resources['requests'])
    for (const [name, amount] of Object.entries(resources['limits']))
      if (!Object.hasOwn(requests, name)) setOwn(requests, name, amount)
  }
}

const PROBE_NUMBERS = { timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3 }

function defaultContainer(container: Json): void {
  const image = asText(container['image'])
  fill(container, 'imagePullPolicy', hasLatestTag(image) ? 'Always' : 'IfNotPresent')
  fill(container, 'terminationMessagePath', '/dev/termination-log')
  fill(container, 'terminationMessagePolicy', 'File')
  fill(container, 'resources', {})
  for (const port of list(container['ports'])) fill(port, 'protocol', 'TCP')
  for (const env of list(container['env'])) {
    const fieldRef = asObject(env['valueFrom'])['fieldRef']
    if (isObject(fieldRef)) fill(fieldRef, 'apiVersion', 'v1')
  }
  for (const field of ['livenessProbe', 'readinessProbe', 'startupProbe']) {
    const probe = container[field]
    if (!isObject(probe)) continue
    // 0 stands for "not set" too: nobody probes without a pause.
    for (const [field, value] of Object.entries(PROBE_NUMBERS)) if (!probe[field]) probe[field] = value
    defaultHttpGet(probe['httpGet'])
    if (isObject(probe['grpc'])) fill(probe['grpc'], 'service', '')
  }
  for (const hook of ['postStart', 'preStop'])
    defaultHttpGet(asObject(asObject(container['lifecycle'])[hook])['httpGet'])
}

function defaultHttpGet(httpGet: unknown): void {
  if (!isObject(httpGet)) return
  fill(httpGet, 'path', '/')
  fill(httpGet, 'scheme', 'HTTP')
}

function defaultVolume(volume: Json): void {
  const sources = Object.keys(volume).filter((field) => field !== 'name')
  if (sources.length === 0) volume['emptyDir'] = {}
  for (const field of ['secret', 'configMap', 'downwardAPI', 'projected'])
    if (isObject(volume[field])) fill(volume[field], 'defaultMode', 0o644)
  if (isObject(volume['hostPath'])) fill(volume['hostPath'], 'type', '')
  for (const source of list(asObject(volume['projected'])['sources'])) {
    if (isObject(source['serviceAccountToken'])) fill(source['serviceAccountToken'], 'expirationSeconds', 3600)
    for (const item of list(asObject(source['downwardAPI'])['items']))
      if (isObject(item['fieldRef'])) fill(item['fieldRef'], 'apiVersion', 'v1')
  }
  for (const item of list(asObject(volume['downwardAPI'])['items']))
    if (isObject(item['fieldRef'])) fill(item['fieldRef'], 'apiVersion', 'v1')
}

/** `nginx`, `host:5000/nginx:latest`: no tag, no digest, or the tag `latest`. */
function hasLatestTag(image: string): boolean {
  if (image.includes('@')) return false
  const name = image.slice(image.lastIndexOf('/') + 1)
  const tag = name.split(':')[1]
  return tag === undefined || tag === 'latest'
}

const RESTART_POLICIES = ['Always', 'OnFailure', 'Never']
const PULL_POLICIES = ['Always', 'IfNotPresent', 'Never']
const DNS_POLICIES = ['ClusterFirstWithHostNet', 'ClusterFirst', 'Default', 'None']
const PROTOCOLS = ['SCTP', 'TCP', 'UDP']
const TAINT_EFFECTS = ['NoSchedule', 'PreferNoSchedule', 'NoExecute']

/** `path`: `spec` or `spec.template.spec`. */
export function validatePodSpec(spec: Json, path: string): StatusCause[] {
  const causes: StatusCause[] = []
  const volumes = new Set<string>()
  causes.push(...validateVolumes(asList(spec['volumes']), `${path}.volumes`, volumes))
  if (asList(spec['containers']).length === 0) causes.push(required(`${path}.containers`))
  const names = new Set<string>()
  for (const field of ['initContainers', 'containers'])
    for (const [i, container] of asList(spec[field]).entries())
      causes.push(...validateContainer(container, `${path}.${field}[${i}]`, names, volumes, field))
  const oneOf = (field: string, supported: string[]) => {
    const value = spec[field]
    if (value !== undefined && !supported.includes(value as string))
      causes.push(notSupported(`${path}.${field}`, value, supported))
  }
  oneOf('restartPolicy', RESTART_POLICIES)
  oneOf('dnsPolicy', DNS_POLICIES)
  const grace = asNumber(spec['terminationGracePeriodSeconds'])
  if (grace !== undefined && grace < 0)
    causes.push(invalid(`${path}.terminationGracePeriodSeconds`, grace, 'must be greater than or equal to 0'))
  const deadline = asNumber(spec['activeDeadlineSeconds'])
  if (deadline !== undefined && deadline < 1)
    causes.push(invalid(`${path}.activeDeadlineSeconds`, deadline, 'must be between 1 and 2147483647, inclusive'))
  for (const [key, value] of Object.entries(asObject(spec['nodeSelector'])))
    causes.push(...labelCauses(key, value, `${path}.nodeSelector`))
  const nodeName = asText(spec['nodeName'])
  const wrongNode = nodeName ? dns1123Subdomain(nodeName) : undefined
  if (wrongNode) causes.push(invalid(`${path}.nodeName`, nodeName, wrongNode))
  for (const field of ['hostname', 'subdomain']) {
    const text = asText(spec[field])
    const wrong = text ? dns1123Label(text) : undefined
    if (wrong) causes.push(invalid(`${path}.${field}`, text, wrong))
  }
  const account = asText(spec['serviceAccountName'])
  const wrongAccount = account ? dns1123Subdomain(account) : undefined
  if (wrongAccount) causes.push(invalid(`${path}.serviceAccountName`, account, wrongAccount))
  const nameservers = asObject(spec['dnsConfig'])['nameservers']
  if (spec['dnsPolicy'] === 'None' && !(Array.isArray(nameservers) && nameservers.length > 0))
    causes.push(
      required(`${path}.dnsConfig.nameservers`, 'must provide at least one DNS nameserver when `dnsPolicy` is None'),
    )
  if (isObject(spec['affinity'])) causes.push(...validateAffinity(spec['affinity'], `${path}.affinity`))
  for (const [i, toleration] of asList(spec['tolerations']).entries())
    causes.push(...validateToleration(toleration, `${path}.tolerations[${i}]`))
  for (const [i, constraint] of asList(spec['topologySpreadConstraints']).entries()) {
    const at = `${path}.topologySpreadConstraints[${i}]`
    if ((asNumber(constraint['maxSkew']) ?? 0) <= 0)
      causes.push(invalid(`${at}.maxSkew`, constraint['maxSkew'] ?? 0, 'must be greater than zero'))
    if (!asText(constraint['topologyKey'])) causes.push(required(`${at}.topologyKey`, 'can not be empty'))
    const when = constraint['whenUnsatisfiable']
    if (when !== 'DoNotSchedule' && when !== 'ScheduleAnyway')
      causes.push(notSupported(`${at}.whenUnsatisfiable`, when ?? '', ['DoNotSchedule', 'ScheduleAnyway']))
    if (isObject(constraint['labelSelector']))
      causes.push(...validateLabelSelector(constraint['labelSelector'], `${at}.labelSelector`))
  }
  return causes
}

function validateToleration(toleration: Json, at: string): StatusCause[] {
  const causes: StatusCause[] = []
  const key = asText(toleration['key'])
  const wrong = key ? qualifiedName(key) : undefined
  if (wrong) causes.push(invalid(`${at}.key`, key, wrong))
  const operator = toleration['operator']
  if (!key && operator !== 'Exists')
    causes.push(
      invalid(
        `${at}.operator`,
        operator ?? '',
        'operator must be Exists when `key` is empty, which means "match all values and all keys"',
      ),
    )
  if (operator !== undefined && operator !== 'Equal' && operator !== 'Exists')
    causes.push(notSupported(`${at}.operator`, operator, ['Equal', 'Exists']))
  const effect = asText(toleration['effect'])
  if (effect && !TAINT_EFFECTS.includes(effect)) causes.push(notSupported(`${at}.effect`, effect, TAINT_EFFECTS))
  if (toleration['tolerationSeconds'] != null && effect !== 'NoExecute')
    causes.push(invalid(`${at}.effect`, effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
  return causes
}

function validateContainer(
  container: Json,
  at: string,
  names: Set<string>,
  volumes: Set<string>,
  field: string,
): StatusCause[] {
  const causes: StatusCause[] = []
  const name = asText(container['name'])
  if (!name) causes.push(required(`${at}.name`))
  else {
    const wrong = dns1123Label(name)
    if (wrong) causes.push(invalid(`${at}.name`, name, wrong))
    if (names.has(name)) causes.push(duplicate(`${at}.name`, name))
    names.add(name)
  }
  const image = asText(container['image'])
  if (!image) causes.push(required(`${at}.image`))
  else if (image !== image.trim())
    causes.push(invalid(`${at}.image`, image, 'must not have leading or trailing whitespace'))
  const pull = container['imagePullPolicy']
  if (pull !== undefined && !PULL_POLICIES.includes(pull as string))
    causes.push(notSupported(`${at}.imagePullPolicy`, pull, PULL_POLICIES))
  const restart = container['restartPolicy']
  if (restart !== undefined && field === 'containers')
    causes.push(forbidden(`${at}.restartPolicy`, 'may not be set for non-init containers'))
  const portNames = new Set<string>()
  for (const [i, port] of asList(container['ports']).entries()) {
    const portAt = `${at}.ports[${i}]`
    const portText = asText(port['name'])
    const wrongName = portText ? portName(portText) : undefined
    if (wrongName) causes.push(invalid(`${portAt}.name`, portText, wrongName))
    if (portText && portNames.has(portText)) causes.push(duplicate(`${portAt}.name`, portText))
    portNames.add(portText)
    if (port['containerPort'] === undefined || port['containerPort'] === 0)
      causes.push(required(`${portAt}.containerPort`))
    else {
      const wrong = portNumber(port['containerPort'])
      if (wrong) causes.push(invalid(`${portAt}.containerPort`, port['containerPort'], wrong))
    }
    const host = port['hostPort']
    if (host !== undefined && host !== 0 && portNumber(host))
      causes.push(invalid(`${portAt}.hostPort`, host, portNumber(host) as string))
    if (port['protocol'] !== undefined && !PROTOCOLS.includes(port['protocol'] as string))
      causes.push(notSupported(`${portAt}.protocol`, port['protocol'], PROTOCOLS))
  }
  for (const [i, env] of asList(container['env']).entries()) {
    const envAt = `${at}.env[${i}]`
    const envText = asText(env['name'])
    if (!envText) causes.push(required(`${envAt}.name`))
    else {
      const wrong = envName(envText)
      if (wrong) causes.push(invalid(`${envAt}.name`, envText, wrong))
    }
    if (isObject(env['valueFrom']))
      causes.push(...validateValueFrom(env['valueFrom'], asText(env['value']), `${envAt}.valueFrom`))
  }
  for (const [i, source] of asList(container['envFrom']).entries())
    causes.push(...validateEnvFrom(source, `${at}.envFrom[${i}]`))
  const mounts = new Set<string>()
  for (const [i, mount] of asList(container['volumeMounts']).entries()) {
    const mountAt = `${at}.volumeMounts[${i}]`
    const volume = asText(mount['name'])
    if (!volume) causes.push(required(`${mountAt}.name`))
    else if (!volumes.has(volume))
      causes.push({
        reason: 'FieldValueNotFound',
        message: `Not found: ${JSON.stringify(volume)}`,
        field: `${mountAt}.name`,
      })
    const mountPath = asText(mount['mountPath'])
    if (!mountPath) causes.push(required(`${mountAt}.mountPath`))
    else if (mounts.has(mountPath)) causes.push(invalid(`${mountAt}.mountPath`, mountPath, 'must be unique'))
    mounts.add(mountPath)
    if (mountPath.includes(':')) causes.push(invalid(`${mountAt}.mountPath`, mountPath, "must not contain ':'"))
    for (const field of ['subPath', 'subPathExpr']) {
      const sub = asText(mount[field])
      if (sub) causes.push(...validateLocalPath(sub, `${mountAt}.${field}`))
    }
    if (asText(mount['subPath']) && asText(mount['subPathExpr']))
      causes.push(
        invalid(`${mountAt}.subPathExpr`, mount['subPathExpr'], 'subPathExpr and subPath are mutually exclusive'),
      )
  }
  causes.push(...validateResources(asObject(container['resources']), `${at}.resources`))
  for (const probe of ['livenessProbe', 'readinessProbe', 'startupProbe'])
    if (isObject(container[probe]))
      causes.push(...validateProbe(container[probe], `${at}.${probe}`, probe !== 'readinessProbe'))
  const lifecycle = asObject(container['lifecycle'])
  for (const hook of ['postStart', 'preStop'])
    if (isObject(lifecycle[hook]))
      causes.push(
        ...validateHandler(lifecycle[hook], `${at}.lifecycle.${hook}`, ['exec', 'httpGet', 'tcpSocket', 'sleep']),
      )
  return causes
}

const FIELD_PATHS = [
  'metadata.name',
  'metadata.namespace',
  'metadata.uid',
  'spec.nodeName',
  'spec.serviceAccountName',
  'status.hostIP',
  'status.hostIPs',
  'status.podIP',
  'status.podIPs',
]
const FIELD_PATH_WITH_KEY = /^metadata\.(labels|annotations)\['([^']+)'\]$/
const VALUE_SOURCES = ['fieldRef', 'resourceFieldRef', 'configMapKeyRef', 'secretKeyRef', 'fileKeyRef']

function validateValueFrom(from: Json, value: string, at: string): StatusCause[] {
  const causes: StatusCause[] = []
  const sources = VALUE_SOURCES.filter((source) => isObject(from[source]))
  if (sources.length === 0) causes.push(invalid(at, '', `must specify one of: ${sourceNames}`))
  else if (value) causes.push(invalid(at, '', 'may not be specified when `value` is not empty'))
  if (sources.length > 1) causes.push(invalid(at, '', 'may not have more than one field specified at a time'))
  for (const source of ['configMapKeyRef', 'secretKeyRef']) {
    if (!isObject(from[source])) continue
    const { name, key } = from[source]
    if (!asText(name)) causes.push(required(`${at}.${source}.name`))
    const wrong = asText(key) ? configKey(asText(key)) : undefined
    if (!asText(key)) causes.push(required(`${at}.${source}.key`))
    else if (wrong) causes.push(invalid(`${at}.${source}.key`, key, wrong))
  }
  if (isObject(from['fieldRef'])) {
    const path = asText(from['fieldRef']['fieldPath'])
    if (!path) causes.push(required(`${at}.fieldRef.fieldPath`))
    else if (!FIELD_PATHS.includes(path) && !FIELD_PATH_WITH_KEY.test(path))
      causes.push(notSupported(`${at}.fieldRef.fieldPath`, path, FIELD_PATHS))
  }
  if (isObject(from['resourceFieldRef']) && !asText(from['resourceFieldRef']['resource']))
    causes.push(required(`${at}.resourceFieldRef.resource`))
  return causes
}

const sourceNames = VALUE_SOURCES.map((source) => `\`${source}\``).join(', ')

function validateEnvFrom(source: Json, at: string): StatusCause[] {
  const causes: StatusCause[] = []
  const prefix = asText(source['prefix'])
  const wrong = prefix ? envName(prefix) : undefined
  if (wrong) causes.push(invalid(`${at}.prefix`, prefix, wrong))
  const refs = ['configMapRef', 'secretRef'].filter((ref) => isObject(source[ref]))
  if (refs.length === 0) causes.push(invalid(at, '', 'must specify one of: `configMapRef` or `secretRef`'))
  if (refs.length > 1) causes.push(invalid(at, '', 'may not have more than one field specified at a time'))
  for (const ref of refs) if (!asText(asObject(source[ref])['name'])) causes.push(required(`${at}.${ref}.name`))
  return causes
}

function validateProbe(probe: Json, at: string, successMustBeOne: boolean): StatusCause[] {
  const causes = validateHandler(probe, at, ['exec', 'httpGet', 'tcpSocket', 'grpc'])
  for (const field of [
    'initialDelaySeconds',
    'timeoutSeconds',
    'periodSeconds',
    'successThreshold',
    'failureThreshold',
  ]) {
    const value = asNumber(probe[field])
    if (value !== undefined && value < 0)
      causes.push(invalid(`${at}.${field}`, value, 'must be greater than or equal to 0'))
  }
  if (successMustBeOne && (asNumber(probe['successThreshold']) ?? 1) !== 1)
    causes.push(invalid(`${at}.successThreshold`, probe['successThreshold'], 'must be 1'))
  return causes
}

/** What a probe or a hook does: one thing, and a readable one. */
function validateHandler(given: Json, at: string, kinds: string[]): StatusCause[] {
  const causes: StatusCause[] = []
  const handlers = kinds.filter((kind) => isObject(given[kind]))
  if (handlers.length === 0) causes.push(required(at, 'must specify a handler type'))
  for (const extra of handlers.slice(1))
    causes.push(forbidden(`${at}.${extra}`, 'may not specify more than 1 handler type'))
  for (const handler of ['httpGet', 'tcpSocket', 'grpc']) {
    const target = given[handler]
    if (!isObject(target) || !kinds.includes(handler)) continue
    const { port } = target
    const wrong = typeof port === 'string' && handler !== 'grpc' ? portName(port) : portNumber(port)
    if (wrong) causes.push(invalid(`${at}.${handler}.port`, port ?? 0, wrong))
  }
  const { exec } = given
  if (isObject(exec) && !(Array.isArray(exec['command']) && exec['command'].length > 0))
    causes.push(required(`${at}.exec.command`))
  return causes
}

const STANDARD_RESOURCES = ['cpu', 'memory', 'ephemeral-storage']

/** What a container may ask for: a standard resource, huge pages, or something with a domain. */
function resourceName(name: string): string | undefined {
  const wrong = qualifiedName(name)
  if (wrong) return wrong
  if (STANDARD_RESOURCES.includes(name) || name.startsWith('hugepages-') || name.includes('/')) return undefined
  return 'must be a standard resource for containers'
}

export function validateResources(resources: Json, at: string): StatusCause[] {
  const causes: StatusCause[] = []
  const read = (kind: 'limits' | 'requests') => {
    const out = new Map<string, Quantity>()
    for (const [name, text] of Object.entries(asObject(resources[kind]))) {
      try {
        const quantity = parseQuantity(String(text))
        const wrong = resourceName(name)
        if (wrong) causes.push(invalid(`${at}.${kind}[${name}]`, name, wrong))
        if (quantity.nanos < 0n)
          causes.push(invalid(`${at}.${kind}[${name}]`, text, 'must be greater than or equal to 0'))
        out.set(name, quantity)
      } catch {
        causes.push(invalid(`${at}.${kind}[${name}]`, text, QUANTITY_SYNTAX_MESSAGE))
      }
    }
    return out
  }
  const limits = read('limits')
  for (const [name, request] of read('requests')) {
    const limit = limits.get(name)
    if (limit && request.compare(limit) > 0)
      causes.push(
        invalid(
          `${at}.requests`,
          String(asObject(resources['requests'])[name]),
          `must be less than or equal to ${name} limit of ${String(asObject(resources['limits'])[name])}`,
        ),
      )
  }
  return causes
}

/** A pod template's labels and spec. */
export function validateTemplate(template: Json, path: string): StatusCause[] {
  const labels = asObject(asObject(template['metadata'])['labels'])
  return [
    ...Object.entries(labels).flatMap(([key, value]) => labelCauses(key, value, `${path}.metadata.labels`)),
    ...validatePodSpec(asObject(template['spec']), `${path}.spec`),
  ]
}
