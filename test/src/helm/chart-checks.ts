/**
 * What must hold between the objects of the rendered chart, and between them and the programs that they start. Each check
 * gives what is wrong, in sentences; the tests plant a mistake for each.
 */
import { findByKind, type KubeObject } from '@capstan/api'
import type { StatefulSet } from 'kubernetes-types/apps/v1.js'
import type { ConfigMap, Container, PodSpec, Service, Volume } from 'kubernetes-types/core/v1.js'
import type { NetworkPolicy, NetworkPolicyIngressRule } from 'kubernetes-types/networking/v1.js'
import type { PodDisruptionBudget } from 'kubernetes-types/policy/v1.js'
import type { KubernetesObject } from './chart.js'
import type { JsonSchema } from './json-schema.js'
import { kubernetesFaults } from './kubernetes-schema.js'

export interface ChartUnderTest {
  objects: readonly KubernetesObject[]
  /** Keys of the Secrets that are there before the chart is installed, by name. */
  secrets: Readonly<Record<string, readonly string[]>>
  definitions: Record<string, JsonSchema>
}

type Labels = Record<string, string>
/** File below a mount → where it comes from (`secret NAME KEY`); undefined: a directory to write to. */
type Files = Map<string, string>

/** All checks by name. */
export const CHECKS: Readonly<Record<string, (chart: Objects) => string[]>> = {
  kubernetes: (chart) => chart.objects.flatMap((object) => kubernetesFaults(object, chart.definitions)),
  capstan: capstanFaults,
  metadata: metadataFaults,
  selectors: selectorFaults,
  services: serviceFaults,
  quorum: quorumFaults,
  scheduling: schedulingFaults,
  volumes: volumeFaults,
  files: fileFaults,
  bus: busFaults,
  ports: portFaults,
  'network policy': networkPolicyFaults,
  probes: probeFaults,
  rights: rightsFaults,
  ending: endingFaults,
}

export function chartFaults(chart: ChartUnderTest): string[] {
  const objects = new Objects(chart)
  return Object.entries(CHECKS).flatMap(([name, check]) => check(objects).map((fault) => `${name}: ${fault}`))
}

/** The rendered objects, with what most checks ask of them. */
export class Objects {
  readonly objects: readonly KubernetesObject[]
  readonly secrets: ChartUnderTest['secrets']
  readonly definitions: Record<string, JsonSchema>

  constructor(chart: ChartUnderTest) {
    this.objects = chart.objects
    this.secrets = chart.secrets
    this.definitions = chart.definitions
  }
  ofKind<T>(kind: string): T[] {
    return this.objects.filter((object) => object.kind === kind) as T[]
  }
  get set(): StatefulSet {
    const [set, ...more] = this.ofKind<StatefulSet>('StatefulSet')
    if (!set || more.length > 0) throw new Error('there must be one StatefulSet')
    return set
  }
  get pod(): PodSpec {
    return this.set.spec?.template.spec as PodSpec
  }
  get podLabels(): Labels {
    return this.set.spec?.template.metadata?.labels ?? {}
  }
  get containers(): Container[] {
    return [...(this.pod.initContainers ?? []), ...this.pod.containers]
  }
  container(name: string): Container | undefined {
    return this.containers.find((one) => one.name === name)
  }
  /** Names of the pods. */
  get members(): string[] {
    return Array.from({ length: this.set.spec?.replicas ?? 0 }, (_, i) => `${this.set.metadata?.name}-${i}`)
  }
  get peers(): Service | undefined {
    return this.ofKind<Service>('Service').find((one) => one.metadata?.name === this.set.spec?.serviceName)
  }
  /** Container port → name. */
  get podPorts(): Map<number, string> {
    return new Map(this.containers.flatMap((c) => (c.ports ?? []).map((port) => [port.containerPort, port.name ?? ''])))
  }
  config(key: string): string | undefined {
    return this.ofKind<ConfigMap>('ConfigMap')
      .map((map) => map.data?.[key])
      .find((text) => text !== undefined)
  }
}

// --------------------------------------------------------------------------------------------------------- one by one

/**
 * Our own API server would take what of it it knows; the pod above all. It has no volume claims yet: each counts as a volume of
 * the pod here.
 */
function capstanFaults(chart: Objects): string[] {
  const { volumeClaimTemplates: claims = [], ...spec } = chart.set.spec as NonNullable<StatefulSet['spec']>
  const template = {
    metadata: spec.template.metadata,
    spec: {
      ...chart.pod,
      volumes: [...(chart.pod.volumes ?? []), ...claims.map((claim) => ({ name: claim.metadata?.name, emptyDir: {} }))],
    },
  }
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { ...template.metadata, name: 'pod-0', namespace: 'default' },
    spec: template.spec,
  }
  const set = { ...chart.set, apiVersion: 'apps/v1', kind: 'StatefulSet', spec: { ...spec, template } }
  const others = chart.objects.filter((object) => object.kind !== 'StatefulSet')
  return [...others, set, pod].flatMap((object) => {
    const kind = findByKind(object.apiVersion, object.kind)
    if (!kind) return []
    const body = structuredClone(object) as unknown as KubeObject
    const { errors } = kind.decode(body, 'Strict')
    if (errors.length > 0) return errors
    kind.prepareForCreate(body)
    kind.setDefaults(body)
    return kind.validate(body).map((cause) => `${body.kind} ${cause.field}: ${cause.message}`)
  })
}

function metadataFaults({ objects }: Objects): string[] {
  const faults: string[] = []
  const seen = new Set<string>()
  for (const { kind, metadata } of objects) {
    const id = `${kind}/${metadata.name}`
    if (seen.has(id)) faults.push(`${id} is there twice`)
    seen.add(id)
    if (!/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(metadata.name)) faults.push(`${id} is no name`)
    if (metadata.namespace === undefined || metadata.namespace !== objects[0]?.metadata.namespace)
      faults.push(`${id} is in another namespace`)
    for (const label of ['name', 'instance', 'version', 'managed-by'].map((l) => `app.kubernetes.io/${l}`))
      if (!metadata.labels?.[label]) faults.push(`${id} has no label ${label}`)
  }
  return faults
}

const selects = (selector: Labels | undefined, labels: Labels) =>
  selector !== undefined &&
  Object.keys(selector).length > 0 &&
  Object.entries(selector).every(([key, value]) => labels[key] === value)

/** Everything that selects selects exactly the masters. */
function selectorFaults(chart: Objects): string[] {
  const own = chart.set.spec?.selector.matchLabels
  const selectors: [string, Labels | undefined][] = [
    ['the StatefulSet', own],
    ...chart
      .ofKind<Service>('Service')
      .map((s): [string, Labels | undefined] => [`Service ${s.metadata?.name}`, s.spec?.selector]),
    ...chart
      .ofKind<PodDisruptionBudget>('PodDisruptionBudget')
      .map((b): [string, Labels | undefined] => ['the PodDisruptionBudget', b.spec?.selector?.matchLabels]),
    ...chart
      .ofKind<NetworkPolicy>('NetworkPolicy')
      .map((p): [string, Labels | undefined] => ['the NetworkPolicy', p.spec?.podSelector.matchLabels]),
    ...spreadSelectors(chart.pod),
  ]
  return selectors.flatMap(([who, selector]) => {
    if (!selects(selector, chart.podLabels)) return [`${who} does not select the masters`]
    // Two releases in one namespace must not take each other's pods.
    return Object.keys(own ?? {}).every((key) => selector?.[key] === own?.[key])
      ? []
      : [`${who} selects more than the masters`]
  })
}

function spreadSelectors(pod: PodSpec): [string, Labels | undefined][] {
  const anti = pod.affinity?.podAntiAffinity
  return [
    ...(anti?.requiredDuringSchedulingIgnoredDuringExecution ?? []).map((term): [string, Labels | undefined] => [
      'the anti-affinity',
      term.labelSelector?.matchLabels,
    ]),
    ...(anti?.preferredDuringSchedulingIgnoredDuringExecution ?? []).map((term): [string, Labels | undefined] => [
      'the anti-affinity',
      term.podAffinityTerm.labelSelector?.matchLabels,
    ]),
    ...(pod.topologySpreadConstraints ?? []).map((one): [string, Labels | undefined] => [
      'the topology spread',
      one.labelSelector?.matchLabels,
    ]),
  ]
}

function serviceFaults(chart: Objects): string[] {
  const faults: string[] = []
  const { peers, podPorts } = chart
  if (!peers) faults.push(`no Service is called ${chart.set.spec?.serviceName}, which names the pods`)
  else {
    if (peers.spec?.clusterIP !== 'None') faults.push('the Service of the peers is not headless')
    if (peers.spec?.publishNotReadyAddresses !== true)
      faults.push('the peers find each other only when they are ready, and get ready only when they found each other')
  }
  for (const service of chart.ofKind<Service>('Service'))
    for (const port of service.spec?.ports ?? []) {
      const { targetPort } = port
      // Named ports of init containers are not found by every version's endpoints controller.
      if (typeof targetPort !== 'number') faults.push(`Service ${service.metadata?.name}: targetPort must be a number`)
      else if (podPorts.get(targetPort) !== port.name)
        faults.push(`Service ${service.metadata?.name}: no container serves ${port.name} on ${targetPort}`)
    }
  const served = chart.ofKind<Service>('Service').flatMap((s) => (s.spec?.ports ?? []).map((port) => port.name))
  if (!served.includes('https')) faults.push('no Service leads to the API')
  if (chart.container('etcd') && !served.includes('etcd')) faults.push('no Service leads to the etcd faces')
  return faults
}

function quorumFaults(chart: Objects): string[] {
  const replicas = chart.set.spec?.replicas ?? 0
  const quorum = Math.floor(replicas / 2) + 1
  const faults = replicas % 2 === 1 ? [] : [`${replicas} masters are an even number`]
  for (const budget of chart.ofKind<PodDisruptionBudget>('PodDisruptionBudget'))
    if (budget.spec?.minAvailable !== quorum || budget.spec?.maxUnavailable !== undefined)
      faults.push(`${budget.spec?.minAvailable} of ${replicas} masters stay at a drain; a quorum is ${quorum}`)
  if (chart.set.spec?.podManagementPolicy !== 'Parallel')
    faults.push('masters start one after the other: the first one waits for a quorum for ever')
  return faults
}

function schedulingFaults(chart: Objects): string[] {
  const anti = chart.pod.affinity?.podAntiAffinity
  const keys = [
    ...(anti?.requiredDuringSchedulingIgnoredDuringExecution ?? []).map((term) => term.topologyKey),
    ...(anti?.preferredDuringSchedulingIgnoredDuringExecution ?? []).map((term) => term.podAffinityTerm.topologyKey),
  ]
  const faults = keys.filter((key) => key !== 'kubernetes.io/hostname').map((key) => `masters are kept apart by ${key}`)
  for (const spread of chart.pod.topologySpreadConstraints ?? [])
    if (spread.topologyKey !== 'topology.kubernetes.io/zone' || spread.maxSkew !== 1)
      faults.push(`masters are spread over ${spread.topologyKey} with a skew of ${spread.maxSkew}`)
  return faults
}

function volumeFaults(chart: Objects): string[] {
  const faults: string[] = []
  const claims = (chart.set.spec?.volumeClaimTemplates ?? []).map((claim) => claim.metadata?.name as string)
  const volumes = (chart.pod.volumes ?? []).map((volume) => volume.name)
  const used = new Set(chart.containers.flatMap((c) => (c.volumeMounts ?? []).map((mount) => mount.name)))
  for (const name of [...volumes, ...claims]) if (!used.has(name)) faults.push(`nobody mounts the volume ${name}`)
  for (const container of chart.containers)
    for (const mount of container.volumeMounts ?? []) {
      if (![...volumes, ...claims].includes(mount.name))
        faults.push(`${container.name} mounts ${mount.name}, which is no volume`)
      if (!claims.includes(mount.name) && mount.readOnly !== true)
        faults.push(`${container.name} may write to ${mount.name}`)
    }
  for (const volume of chart.pod.volumes ?? []) faults.push(...sourcesOf(chart, volume).faults)
  for (const [path, store] of [
    ['/var/lib/capstan/store', 'store'],
    ['/var/lib/capstan/nats', 'nats'],
  ] as const)
    if (!chart.container(store)?.volumeMounts?.some((mount) => claims.includes(mount.name) && mount.mountPath === path))
      faults.push(`${store} keeps ${path} on no persistent volume`)
  if (chart.set.spec?.persistentVolumeClaimRetentionPolicy?.whenDeleted !== 'Retain')
    faults.push('the volumes go with the StatefulSet')
  return faults
}

/** The files of a volume, and what its sources lack. */
function sourcesOf(chart: Objects, volume: Volume): { files: Files; faults: string[] } {
  const files: Files = new Map()
  const faults: string[] = []
  const add = (kind: 'secret' | 'configMap', name: string | undefined, items?: { key: string; path: string }[]) => {
    const keys =
      kind === 'secret'
        ? chart.secrets[name ?? '']
        : Object.keys(chart.ofKind<ConfigMap>('ConfigMap').find((map) => map.metadata?.name === name)?.data ?? {})
    if (!keys || keys.length === 0) {
      faults.push(`the volume ${volume.name} is made of ${kind} ${name}, which does not exist`)
      return
    }
    for (const { key, path } of items ?? keys.map((one) => ({ key: one, path: one }))) {
      if (!keys.includes(key)) faults.push(`the volume ${volume.name} wants ${key} of ${kind} ${name}, which has none`)
      files.set(path, `${kind} ${name} ${key}`)
    }
  }
  if (volume.secret) add('secret', volume.secret.secretName, volume.secret.items)
  if (volume.configMap) add('configMap', volume.configMap.name, volume.configMap.items)
  for (const source of volume.projected?.sources ?? []) {
    if (source.secret) add('secret', source.secret.name, source.secret.items)
    if (source.configMap) add('configMap', source.configMap.name, source.configMap.items)
  }
  return { files, faults }
}

/** Where a file that a container of a pod opens comes from: `secret NAME KEY`, `data`, or undefined: there is none. */
export function fileIn(chart: Objects, container: Container, member: string, path: string): string | undefined {
  for (const mount of container.volumeMounts ?? []) {
    if (path !== mount.mountPath && !path.startsWith(`${mount.mountPath}/`)) continue
    const volume = chart.pod.volumes?.find((one) => one.name === mount.name)
    if (!volume) return 'data'
    const below = mount.subPathExpr?.replace('$(POD_NAME)', member) ?? mount.subPath
    const rest = path.slice(mount.mountPath.length + 1)
    return sourcesOf(chart, volume).files.get(below === undefined ? rest : `${below}/${rest}`)
  }
  return undefined
}

/** Every file that a program is told to open is there, and is the right one. */
function fileFaults(chart: Objects): string[] {
  return chart.members.flatMap((member) => [
    ...programFiles(chart, member, 'store', `store-${member}.json`),
    ...programFiles(chart, member, 'master', 'master.json'),
    ...(chart.container('etcd') ? programFiles(chart, member, 'etcd', `etcd-${member}.json`) : []),
  ])
}

interface ProgramConfig {
  cluster?: string
  clusterId?: string
  member?: string
  members?: string[]
  dataDir?: string
  bus?: { servers: string[]; credentials: string; ca: string }
  tls?: Record<string, string>
  https?: Record<string, string | number>
  serviceAccount?: Record<string, string>
}

function programFiles(chart: Objects, member: string, name: string, configKey: string): string[] {
  const container = chart.container(name)
  if (!container) return [`there is no container ${name}`]
  const faults: string[] = []
  const [path = ''] = (container.args ?? []).map((arg) => arg.replaceAll('$(POD_NAME)', member))
  const found = fileIn(chart, container, member, path)
  if (!found?.endsWith(` ${configKey}`)) return [`${name} of ${member} is started with ${path}, which is ${found}`]
  if (!container.env?.some((e) => e.name === 'POD_NAME' && e.valueFrom?.fieldRef?.fieldPath === 'metadata.name'))
    faults.push(`${name} does not know its pod's name`)
  const config = JSON.parse(chart.config(configKey) ?? '{}') as ProgramConfig
  if (name !== 'master' && config.member !== member) faults.push(`${configKey} is of ${config.member}`)
  if ([...(config.members ?? [])].sort().join() !== [...chart.members].sort().join())
    faults.push(`${configKey} names other members: ${config.members}`)
  if (name === 'store' && !config.clusterId) faults.push(`${configKey} has no cluster id`)
  if (name === 'store' && fileIn(chart, container, member, config.dataDir ?? '') !== 'data')
    faults.push(`${config.dataDir} is on no persistent volume`)
  const credentials =
    name === 'master'
      ? ['apiserver', 'scheduler', 'controller-manager'].map((c) => [`${config.bus?.credentials}/${c}.creds`, c])
      : [[config.bus?.credentials, name]]
  const wanted: [string, string][] = [
    ...credentials.map(([file, component]): [string, string] => [String(file), `${member}.${component}.creds`]),
    [String(config.bus?.ca), 'ca.crt'],
    ...(name === 'store' ? [] : pemFiles(config.tls ?? config.https ?? {})),
    ...(config.serviceAccount ? serviceAccountFiles(config.serviceAccount) : []),
  ]
  for (const [file, key] of wanted) {
    const source = fileIn(chart, container, member, file)
    if (!source?.startsWith('secret ') || !source.endsWith(` ${key}`))
      faults.push(`${name} of ${member}: ${file} should be ${key} of a Secret, and is ${source ?? 'not there'}`)
  }
  // What a container can read of others is what somebody who breaks into it has.
  for (const other of chart.members.filter((one) => one !== member))
    if (chart.containers.some((one) => fileIn(chart, one, member, `/etc/capstan/credentials/${other}/${name}.creds`)))
      faults.push(`${member} can read the credentials of ${other}`)
  return faults
}

const pemFiles = (tls: Record<string, string | number>): [string, string][] => [
  [String(tls['cert']), 'tls.crt'],
  [String(tls['key']), 'tls.key'],
  [String(tls['ca']), 'ca.crt'],
]

const serviceAccountFiles = (keys: Record<string, string>): [string, string][] => [
  [String(keys['publicKey']), 'service-account.pub'],
  [String(keys['privateKey']), 'service-account.key'],
]

const hostOf = (chart: Objects, member: string, domain: string) =>
  `${member}.${chart.set.spec?.serviceName}.${chart.set.metadata?.namespace}.svc.${domain}`

/** The servers of the bus know each other, by TLS, and every program knows all of them, its own first. */
function busFaults(chart: Objects): string[] {
  const faults: string[] = []
  const conf = chart.config('nats.conf') ?? ''
  const nats = chart.container('nats')
  if (!nats) return ['there is no nats-server']
  const ports = Object.fromEntries((nats.ports ?? []).map((port) => [port.name, port.containerPort]))
  const routes = [...conf.matchAll(/"nats-route:\/\/([^":]+):(\d+)"/g)].map((match) => `${match[1]}:${match[2]}`)
  const domain = /\.svc\.([^:]+):/.exec(routes[0] ?? '')?.[1] ?? ''
  for (const member of chart.members)
    if (!routes.includes(`${hostOf(chart, member, domain)}:${ports['routes']}`))
      faults.push(`no route leads to ${member}: ${routes.join(', ')}`)
  if (routes.length !== chart.members.length) faults.push(`${routes.length} routes for ${chart.members.length} servers`)
  const listens = [...conf.matchAll(/^\s*listen: "0\.0\.0\.0:(\d+)"/gm)].map((match) => Number(match[1]))
  if (listens.join() !== `${ports['bus']},${ports['routes']}`)
    faults.push(`nats-server listens on ${listens.join()}, its container says ${ports['bus']},${ports['routes']}`)
  if (!/^server_name: \$POD_NAME$/m.test(conf)) faults.push('servers have no names of their own')
  if (!/^include "authority\.conf"$/m.test(conf)) faults.push('the bus trusts nobody')
  if ((conf.match(/^\s*tls \{/gm) ?? []).length !== 2) faults.push('clients and routes must both use TLS')
  const [member = ''] = chart.members
  const opened = [
    ...[...conf.matchAll(/_file: "([^"]+)"/g)].map((match) => match[1] as string),
    '/etc/capstan/bus/authority.conf',
  ]
  for (const file of opened)
    if (!fileIn(chart, nats, member, file)?.startsWith('secret ')) faults.push(`nats-server has no ${file}`)
  if (fileIn(chart, nats, member, /dir: "([^"]+)"/.exec(conf)?.[1] ?? '') !== 'data')
    faults.push('accounts that were pushed to a server are on no persistent volume')
  if (fileIn(chart, nats, member, nats.command?.at(-1) ?? '') === undefined)
    faults.push('nats-server has no configuration')
  for (const key of ['master.json', ...chart.members.map((one) => `store-${one}.json`)]) {
    const servers = (JSON.parse(chart.config(key) ?? '{}') as ProgramConfig).bus?.servers ?? []
    const wanted = [
      `127.0.0.1:${ports['bus']}`,
      ...chart.members.map((m) => `${hostOf(chart, m, domain)}:${ports['bus']}`),
    ]
    if (servers.join() !== wanted.join()) faults.push(`${key} knows other servers: ${servers.join(', ')}`)
  }
  return faults
}

/** Ports of one pod differ, and are those that the programs listen on. */
function portFaults(chart: Objects): string[] {
  const all = chart.containers.flatMap((container) => container.ports ?? [])
  const faults = all.length === chart.podPorts.size ? [] : ['two containers of the pod use one port']
  const port = (name: string) => all.find((one) => one.name === name)?.containerPort
  const https = (JSON.parse(chart.config('master.json') ?? '{}') as ProgramConfig).https?.['port']
  if (port('https') !== https) faults.push(`the API server listens on ${https}, its container says ${port('https')}`)
  if (chart.container('etcd'))
    for (const member of chart.members) {
      const config = JSON.parse(chart.config(`etcd-${member}.json`) ?? '{}') as {
        listen?: { port: number }
        clientUrls?: Record<string, string[]>
      }
      if (config.listen?.port !== port('etcd'))
        faults.push(`the etcd face of ${member} listens on ${config.listen?.port}`)
      for (const one of chart.members)
        if (!config.clientUrls?.[one]?.[0]?.startsWith(`https://${one}.${chart.set.spec?.serviceName}.`))
          faults.push(`the etcd face of ${member} does not know that of ${one}`)
    }
  return faults
}

function networkPolicyFaults(chart: Objects): string[] {
  const faults: string[] = []
  for (const policy of chart.ofKind<NetworkPolicy>('NetworkPolicy')) {
    const types = policy.spec?.policyTypes ?? []
    if (!types.includes('Ingress') || !types.includes('Egress')) faults.push('a direction is not ruled')
    const masters = (peers: NetworkPolicyIngressRule['from']) =>
      peers?.length === 1 &&
      !peers[0]?.ipBlock &&
      !peers[0]?.namespaceSelector &&
      selects(peers[0]?.podSelector?.matchLabels, chart.podLabels)
    const rulesFor = (port: number) =>
      (policy.spec?.ingress ?? []).filter((rule) => (rule.ports ?? []).some((one) => one.port === port))
    for (const rule of policy.spec?.ingress ?? []) if (!rule.ports?.length) faults.push('a rule opens every port')
    for (const [port, name] of chart.podPorts) {
      const rules = rulesFor(port)
      if (name === 'routes' && (rules.length === 0 || rules.some((rule) => !masters(rule.from))))
        faults.push('routes of the bus must be open to the masters, and to nobody else')
      if (name === 'bus' && !rules.some((rule) => masters(rule.from))) faults.push('masters do not reach the bus')
      if (name === 'https' && rules.length === 0) faults.push('nobody reaches the API')
      if (name === 'etcd' && rules.some((rule) => !rule.from?.length)) faults.push('everybody reaches the etcd faces')
      const busIsPublic = chart
        .ofKind<Service>('Service')
        .some((s) => s.metadata?.name === `${chart.set.metadata?.name}-bus`)
      if (name === 'bus' && !busIsPublic && rules.some((rule) => !rule.from?.length))
        faults.push('everybody reaches the bus')
    }
    const known = [...chart.podPorts.keys(), 53]
    for (const rule of [...(policy.spec?.ingress ?? []), ...(policy.spec?.egress ?? [])])
      for (const port of rule.ports ?? [])
        if (!known.includes(port.port as number)) faults.push(`a rule is about port ${port.port}, which nobody serves`)
    const out = (policy.spec?.egress ?? [])
      .flatMap((rule) => rule.ports ?? [])
      .map((one) => `${one.protocol} ${one.port}`)
    for (const [port, name] of chart.podPorts)
      if ((name === 'bus' || name === 'routes') && !out.includes(`TCP ${port}`))
        faults.push(`a master may not call ${name} of others`)
    if (!out.includes('UDP 53')) faults.push('a master may not ask for names')
  }
  return faults
}

function probeFaults(chart: Objects): string[] {
  const faults: string[] = []
  const master = chart.container('master')
  const wanted = { startupProbe: '/livez', livenessProbe: '/livez', readinessProbe: '/readyz' } as const
  for (const [probe, path] of Object.entries(wanted)) {
    const get = master?.[probe as keyof typeof wanted]?.httpGet
    if (get?.path !== path || get.scheme !== 'HTTPS') faults.push(`the master's ${probe} should ask ${path} by HTTPS`)
  }
  for (const container of chart.containers)
    for (const probe of [container.startupProbe, container.livenessProbe, container.readinessProbe]) {
      const port = probe?.httpGet?.port ?? probe?.tcpSocket?.port
      if (probe && !container.ports?.some((one) => one.name === port))
        faults.push(`a probe of ${container.name} is about port ${port}, which it has not`)
    }
  // The next container starts when this one is said to have started.
  if (!chart.container('nats')?.startupProbe) faults.push('the store does not wait for its nats-server')
  return faults
}

function rightsFaults(chart: Objects): string[] {
  const faults: string[] = []
  const { pod } = chart
  if (pod.securityContext?.runAsNonRoot !== true) faults.push('pods may run as root')
  if (pod.securityContext?.seccompProfile?.type !== 'RuntimeDefault') faults.push('pods have no seccomp profile')
  if (pod.automountServiceAccountToken !== false) faults.push("the masters hold a token of the host's cluster")
  for (const { name, securityContext, resources } of chart.containers) {
    if (securityContext?.allowPrivilegeEscalation !== false) faults.push(`${name} may gain rights`)
    if (securityContext?.readOnlyRootFilesystem !== true) faults.push(`${name} may write to its image`)
    if (!securityContext?.capabilities?.drop?.includes('ALL')) faults.push(`${name} has capabilities`)
    if (!resources?.limits?.['memory'] || !resources.requests?.['memory']) faults.push(`${name} has no bound of memory`)
  }
  const accounts = chart.objects.filter((object) => object.kind === 'ServiceAccount')
  if (accounts.length > 0 && accounts[0]?.metadata.name !== pod.serviceAccountName)
    faults.push(`the pods run as ${pod.serviceAccountName}, not as the account that was made`)
  return faults
}

/** The master ends before its store, the store before its bus (KEP-753): they are init containers that are kept. */
function endingFaults(chart: Objects): string[] {
  const faults: string[] = []
  const init = chart.pod.initContainers ?? []
  if (init.map((one) => one.name).join() !== 'nats,store')
    faults.push('nats-server, then store, must start before the master')
  for (const one of init) if (one.restartPolicy !== 'Always') faults.push(`the pod waits for ${one.name} to end`)
  // What run-master-pod.ts may take: hand over, close doors, leave the bus; then the store and nats-server.
  if ((chart.pod.terminationGracePeriodSeconds ?? 0) < 30) faults.push('a master is killed before it has handed over')
  for (const name of ['master', 'store', 'etcd'])
    if (chart.container(name) && chart.container(name)?.command?.[0] !== 'tini')
      faults.push(`${name} is process 1, which hears no signal before it has asked for it`)
  return faults
}
