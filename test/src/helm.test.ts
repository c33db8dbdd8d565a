/** The chart `helm/capstan`: rendered, held against Kubernetes' schemas and against itself. */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { makeChartSecrets } from '@capstan/cli'
import type { ConfigMap, Container, PodSpec, Service } from 'kubernetes-types/core/v1.js'
import type { StatefulSet } from 'kubernetes-types/apps/v1.js'
import type { NetworkPolicy } from 'kubernetes-types/networking/v1.js'
import type { PodDisruptionBudget } from 'kubernetes-types/policy/v1.js'
import { parse } from 'yaml'
import {
  ChartError,
  type Chart,
  type KubernetesObject,
  loadChart,
  type Plain,
  type Release,
  type Rendered,
  renderChart,
} from './helm/chart.js'
import { CHECKS, chartFaults, fileIn, Objects } from './helm/chart-checks.js'
import { loadKubernetesSchema, kubernetesFaults } from './helm/kubernetes-schema.js'
import { FAILURES, LINES, recordedPage, renderLine } from './helm/template-page.js'
import { VARIANTS } from './helm/variants.js'

const CHART = join(import.meta.dirname, '../../helm/capstan')
const ID = { cluster: { id: '9a59f9130055fae9' } }
const definitions = loadKubernetesSchema()
let chart: Chart
/** Keys of the Secrets that `capstan chart secrets` makes for nine masters, and for other names. */
let secrets: Record<string, string[]>
let directory: string

before(async () => {
  chart = loadChart(CHART)
  directory = mkdtempSync(join(tmpdir(), 'capstan-helm-'))
  const made = await makeChartSecrets({
    ...{ directory, name: 'capstan', namespace: 'default', replicas: 9, clusterDomain: 'cluster.local' },
    ...{ serviceCidr: '10.96.0.0/16', addresses: ['203.0.113.7', 'api.example.org'] },
  })
  secrets = Object.fromEntries(made.secrets.map((secret) => [secret.metadata.name, Object.keys(secret.data)]))
  for (const secret of made.secrets)
    assert.deepEqual(kubernetesFaults(secret as unknown as KubernetesObject, definitions), [])
})
after(() => rmSync(directory, { recursive: true, force: true }))

const render = (values: Plain = {}, release: Release = {}): Rendered =>
  renderChart(chart, { ...values, cluster: { ...ID.cluster, ...(values['cluster'] as Plain) } }, release)

/** The Secrets as a release of another name or with names of the user's own would find them. */
function secretsFor(name: string, values: Plain): Record<string, string[]> {
  const named = (values['secrets'] ?? {}) as Record<string, string>
  const suffixes: [string, string][] = [
    ['api-tls', 'apiTls'],
    ['bus-tls', 'busTls'],
    ['etcd-tls', 'etcdTls'],
    ['bus-authority', 'busAuthority'],
    ['credentials', 'credentials'],
    ['service-account', 'serviceAccount'],
  ]
  return Object.fromEntries(
    suffixes.map(([suffix, key]) => [
      named[key] ?? `${name}-${suffix}`,
      (secrets[`capstan-${suffix}`] as string[]).map((one) => one.replace(/^capstan(?=-\d+\.)/, name)),
    ]),
  )
}

const faultsOf = (objects: readonly KubernetesObject[], values: Plain = {}, name = 'capstan') =>
  chartFaults({ objects, secrets: secretsFor(name, values), definitions })

const find = <T>(rendered: { objects: readonly KubernetesObject[] }, kind: string, name?: string): T =>
  rendered.objects.find(
    (one) => one.kind === kind && (name === undefined || one.metadata.name === name),
  ) as unknown as T

const podOf = (rendered: { objects: readonly KubernetesObject[] }): PodSpec =>
  find<StatefulSet>(rendered, 'StatefulSet').spec?.template.spec as PodSpec

const containersOf = (rendered: Rendered): Container[] => [
  ...(podOf(rendered).initContainers ?? []),
  ...podOf(rendered).containers,
]

// -------------------------------------------------------------------------------------------------------------- values

test('with its default values the chart makes what a cluster takes, and nothing else', () => {
  const rendered = render()
  assert.deepEqual(faultsOf(rendered.objects), [])
  assert.deepEqual(rendered.objects.map(({ kind, metadata }) => `${kind}/${metadata.name}`).sort(), [
    'ConfigMap/capstan-config',
    'NetworkPolicy/capstan',
    'PodDisruptionBudget/capstan',
    'Service/capstan',
    'Service/capstan-peers',
    'ServiceAccount/capstan',
    'StatefulSet/capstan',
  ])
})

for (const variant of VARIANTS)
  test(`values: ${variant.name}`, () => {
    const rendered = render(variant.values, variant.release)
    const values = variant.values
    const name = String(values['fullnameOverride'] || (variant.release?.name ?? 'capstan'))
    assert.deepEqual(faultsOf(rendered.objects, values, name), [])
    for (const text of [...Object.values(rendered.files), rendered.notes])
      assert.doesNotMatch(text, /\{\{|\}\}|<no value>|%!|map\[/)
    variant.expect(rendered)
  })

test('every value of the chart is documented, allowed by the schema and used by a template', () => {
  const text = readFileSync(join(CHART, 'values.yaml'), 'utf8')
  const templates = [...chart.templates.values()].join('\n')
  const paths = (values: Plain, schema: Plain, path: string[]): string[][] =>
    Object.entries(values).flatMap(([key, value]) => {
      const own = (schema['properties'] as Plain)[key] as Plain
      assert.ok(own, `${[...path, key].join('.')} is not in the schema`)
      return own['properties'] && key !== 'resources' ? paths(value as Plain, own, [...path, key]) : [[...path, key]]
    })
  const all = paths(chart.values, chart.schema, [])
  assert.ok(all.length > 40)
  for (const path of all) {
    const key = path.at(-1) as string
    // A group may be bound by `with`, `range` or `$service`, so the last two names must stand somewhere.
    assert.match(templates, new RegExp(`\\.${key}\\b`), `${path.join('.')} is used nowhere`)
    const lines = text.split('\n')
    const at = lines.findIndex((line) => new RegExp(`^ *${key}:`).test(line))
    const near = lines.slice(Math.max(0, at - 6), at).join('\n')
    assert.ok(/^\s*#/m.test(near) || path.length > 1, `${path.join('.')} has no comment`)
  }
  // And the other way: the schema allows nothing that is not there.
  const allowed = (schema: Plain, values: Plain, path: string): string[] =>
    Object.entries((schema['properties'] ?? {}) as Record<string, Plain>).flatMap(([key, own]) => {
      if (!Object.hasOwn(values, key)) return [`${path}${key}`]
      return own['properties'] && key !== 'resources' ? allowed(own, values[key] as Plain, `${path}${key}.`) : []
    })
  assert.deepEqual(allowed(chart.schema, chart.values, ''), ['global'])
})

test('bad values are refused with what is wrong and where', () => {
  const refused = (values: Plain, message: RegExp) =>
    assert.throws(
      () => render(values),
      (error: Error) => {
        assert.ok(error instanceof ChartError, `${JSON.stringify(values)} is refused by a template, not by the schema`)
        assert.match(error.message, message)
        return true
      },
    )
  refused({ replicas: 2 }, /^- replicas: must be one of 1, 3, 5, 7, 9, not 2$/m)
  refused({ replicas: '3' }, /^- replicas: must be one of .*, not "3"$/m)
  refused({ replica: 3 }, /^- replica: is not known$/m)
  refused({ store: { storage: { sise: '1Gi' } } }, /^- store\.storage\.sise: is not known$/m)
  refused({ store: { storage: { size: 8 } } }, /^- store\.storage\.size: must be a string, not a number$/m)
  refused({ store: { storage: { accessMode: 'ReadWriteMany' } } }, /^- store\.storage\.accessMode: must be one of/m)
  refused({ store: { heartbeatMs: 5 } }, /^- store\.heartbeatMs: must be at least 10$/m)
  refused({ store: { heartbeatMs: 10.5 } }, /^- store\.heartbeatMs: must be a integer/m)
  refused({ store: { logLevel: 'loud' } }, /^- store\.logLevel: must be one of/m)
  refused({ bus: { port: 80 } }, /^- bus\.port: must be at least 1024$/m)
  refused({ bus: { resources: { limit: {} } } }, /^- bus\.resources\.limit: is not known$/m)
  refused(
    { bus: { resources: { limits: { memory: 'much' } } } },
    /^- bus\.resources\.limits\.memory: "much" does not fit/m,
  )
  refused({ api: { service: { type: 'ExternalName' } } }, /^- api\.service\.type: must be one of/m)
  refused(
    { api: { service: { nodePort: 80 } } },
    /^- api\.service\.nodePort: must be one of 0, not 80, or must be at least 30000$/m,
  )
  refused(
    { api: { service: { annotations: { a: 1 } } } },
    /^- api\.service\.annotations\.a: must be a string, not a number$/m,
  )
  refused({ image: { digest: 'sha256:12' } }, /^- image\.digest: "sha256:12" does not fit/m)
  refused({ image: { pullSecrets: ['registry'] } }, /^- image\.pullSecrets\[0\]: must be a object, not a string$/m)
  refused({ image: { pullSecrets: [{}] } }, /^- image\.pullSecrets\[0\]: name is required$/m)
  refused({ fullnameOverride: 'Capstan' }, /^- fullnameOverride: "Capstan" does not fit/m)
  refused({ fullnameOverride: 'x'.repeat(41) }, /^- fullnameOverride: must have at most 40 characters$/m)
  refused({ cluster: { serviceCidr: '10.96.0.0' } }, /^- cluster\.serviceCidr: "10\.96\.0\.0" does not fit/m)
  refused({ cluster: { bootstrap: 'yes' } }, /^- cluster\.bootstrap: must be one of/m)
  refused(
    { scheduling: { hosts: 'soft' } },
    /^- scheduling\.hosts: must be one of "required", "preferred", "none", not "soft"$/m,
  )
  refused({ terminationGracePeriodSeconds: 5 }, /^- terminationGracePeriodSeconds: must be at least 30$/m)
  refused({ networkPolicy: { apiFrom: '10.0.0.0/8' } }, /^- networkPolicy\.apiFrom: must be a array, not a string$/m)
  refused({ store: null }, /^- \(root\): store is required$/m)
  refused({ podDisruptionBudget: { enabled: 'yes' } }, /^- podDisruptionBudget\.enabled: must be a boolean/m)
})

test('what a schema cannot say, the templates refuse', () => {
  const refused = (values: Plain, message: RegExp, release?: Release) =>
    assert.throws(() => render(values, release), { name: 'TemplateError', message })
  refused({ cluster: { id: '' } }, /cluster\.id is required: draw one/)
  refused({ store: { heartbeatMs: 100 } }, /store\.electionTimeoutMs is 300: it must be at least five times/)
  refused({ bus: { port: 6443 } }, /must differ: they are ports of one pod/)
  refused({ etcd: { port: 4222 } }, /must differ/)
  refused({ api: { service: { nodePort: 30443 } } }, /api\.service\.nodePort is set, but the type is ClusterIP/)
  refused(
    { bus: { service: { type: 'NodePort', loadBalancerSourceRanges: ['10.0.0.0/8'] } } },
    /bus\.service\.loadBalancerSourceRanges is set, but the type is NodePort/,
  )
  refused({ podLabels: { 'app.kubernetes.io/name': 'x' } }, /podLabels may not set app\.kubernetes\.io\/name/)
  refused({ podAnnotations: { 'checksum/config': 'x' } }, /podAnnotations may not set checksum\/config/)
  refused({}, /the name "1st" can't be a Service's/, { name: '1st' })
  refused({}, /is longer than 40 characters/, { name: 'a'.repeat(41) })
  const running = {
    'StatefulSet/default/capstan': {
      apiVersion: 'apps/v1',
      metadata: { annotations: { 'capstan.dev/cluster-id': ID.cluster.id } },
      spec: { replicas: 3 },
    },
  }
  const upgrade = { isInstall: false, existing: running }
  assert.deepEqual(faultsOf(render({}, upgrade).objects), [])
  refused({ replicas: 5 }, /there are 3 masters and replicas is 5: the number of masters can't change/, upgrade)
  refused(
    { cluster: { id: 'other' } },
    /cluster\.id is other, but the masters that run belong to 9a59f9130055fae9/,
    upgrade,
  )
})

test('a master restarts for a configuration that it has read, and for nothing else', () => {
  const template = (values: Plain, release?: Release) =>
    JSON.stringify(find<StatefulSet>(render(values, release), 'StatefulSet').spec?.template)
  const first = template({})
  // The first upgrade says that volumes are no longer those of founders: no reason to restart anybody.
  assert.equal(template({}, { isInstall: false }), first)
  assert.equal(template({ minReadySeconds: 9, networkPolicy: { enabled: false } }), first)
  assert.notEqual(template({ store: { electionTimeoutMs: 1000 } }), first)
  assert.notEqual(template({ cluster: { tolerationSeconds: 30 } }), first)
  assert.notEqual(template({ bus: { port: 4333 } }), first)
})

test('the directory of Secrets is made once, and found again', async () => {
  const options = {
    ...{ directory, name: 'capstan', namespace: 'default', replicas: 3, clusterDomain: 'cluster.local' },
    serviceCidr: '10.96.0.0/16',
    addresses: [],
  }
  const [one, two] = [await makeChartSecrets(options), await makeChartSecrets(options)]
  assert.deepEqual(one.values, two.values)
  const data = (made: typeof one, name: string) => made.secrets.find((s) => s.metadata.name === `capstan-${name}`)?.data
  for (const name of ['credentials', 'service-account']) assert.deepEqual(data(one, name), data(two, name))
  for (const name of ['api-tls', 'bus-tls']) assert.equal(data(one, name)?.['ca.crt'], data(two, name)?.['ca.crt'])
  // Its values fit the chart, and no key of an authority leaves the directory.
  const rendered = renderChart(chart, one.values as Plain)
  assert.deepEqual(faultsOf(rendered.objects), [])
  const all = JSON.stringify(
    one.secrets.map((s) => Object.values(s.data).map((d) => Buffer.from(d, 'base64').toString())),
  )
  for (const file of ['ca.key', 'bus-ca.key', 'etcd-ca.key'])
    assert.ok(!all.includes(readFileSync(join(directory, 'pki', file), 'utf8').split('\n')[1] as string), file)
  assert.doesNotMatch(all, /S[OA][A-Z2-7]{56}/)
  await assert.rejects(makeChartSecrets({ ...options, replicas: 4 }), /4 masters: it must be 1, 3, 5, 7 or 9/)
  await assert.rejects(makeChartSecrets({ ...options, name: 'A' }), /"A" can't be the name/)
})

// --------------------------------------------------------------------------------------------------- test of the tester

test('the renderer makes of each line of the page what Go makes of it', () => {
  const recorded = recordedPage()
  assert.deepEqual(Object.keys(recorded), LINES)
  // Which quotation marks a YAML string has, the two writers see differently.
  const read = (line: string, out: string | undefined) =>
    line.includes('toYaml') ? (parse(out ?? '') as unknown) : out
  for (const line of LINES) assert.deepEqual(read(line, renderLine(line)), read(line, recorded[line]), line)
  for (const line of FAILURES) assert.equal(renderLine(line), undefined, line)
})

interface Plant {
  check: keyof typeof CHECKS
  what: string
  values?: Plain
  /** Spoils the objects; the fault must then be found, in these words. */
  spoil(objects: KubernetesObject[]): void
  found: RegExp
}

const pod = (objects: KubernetesObject[]): PodSpec => podOf({ objects })
const service = (objects: KubernetesObject[], name: string): Service => find<Service>({ objects }, 'Service', name)
const policy = (objects: KubernetesObject[]) => find<NetworkPolicy>({ objects }, 'NetworkPolicy')
const init = (objects: KubernetesObject[], at: number): Container =>
  (pod(objects).initContainers as Container[])[at] as Container
const master = (objects: KubernetesObject[]): Container => pod(objects).containers[0] as Container
const conf = (objects: KubernetesObject[], key: string, change: (text: string) => string) => {
  const map = find<ConfigMap>({ objects }, 'ConfigMap')
  const data = map.data as Record<string, string>
  data[key] = change(data[key] as string)
}

const PLANTS: Plant[] = [
  {
    check: 'kubernetes',
    what: 'a field that does not exist',
    spoil: (o) => Object.assign(pod(o), { terminationGraceSeconds: 1 }),
    found: /terminationGraceSeconds: is not known/,
  },
  {
    check: 'kubernetes',
    what: 'a field of a wrong type',
    spoil: (o) => Object.assign(find<StatefulSet>({ objects: o }, 'StatefulSet').spec as object, { replicas: '3' }),
    found: /spec\.replicas: must be a integer, not a string/,
  },
  {
    check: 'kubernetes',
    what: 'a kind of another version',
    spoil: (o) => Object.assign(policy(o), { apiVersion: 'extensions/v1beta1' }),
    found: /extensions\/v1beta1\/NetworkPolicy is no kind/,
  },
  {
    check: 'capstan',
    what: 'a port name that is too long',
    spoil: (o) => Object.assign(master(o).ports?.[0] as object, { name: 'https-of-the-api-server' }),
    found: /ports\[0\]\.name/,
  },
  {
    check: 'metadata',
    what: 'two objects of one name',
    spoil: (o) => o.push(structuredClone(o[0] as KubernetesObject)),
    found: /is there twice/,
  },
  {
    check: 'metadata',
    what: 'another namespace',
    spoil: (o) => Object.assign((o[2] as KubernetesObject).metadata, { namespace: 'x' }),
    found: /is in another namespace/,
  },
  {
    check: 'selectors',
    what: 'a Service that selects nobody',
    spoil: (o) => Object.assign(service(o, 'capstan').spec?.selector as object, { 'app.kubernetes.io/component': 'x' }),
    found: /Service capstan does not select/,
  },
  {
    check: 'selectors',
    what: 'a budget for every release',
    spoil: (o) =>
      delete find<PodDisruptionBudget>({ objects: o }, 'PodDisruptionBudget').spec?.selector?.matchLabels?.[
        'app.kubernetes.io/instance'
      ],
    found: /PodDisruptionBudget selects more/,
  },
  {
    check: 'selectors',
    what: 'anti-affinity to others',
    spoil: (o) =>
      Object.assign(pod(o).topologySpreadConstraints?.[0]?.labelSelector?.matchLabels as object, { x: 'y' }),
    found: /topology spread does not select/,
  },
  {
    check: 'services',
    what: 'a governing Service that is not there',
    spoil: (o) => Object.assign(find<StatefulSet>({ objects: o }, 'StatefulSet').spec as object, { serviceName: 'x' }),
    found: /no Service is called x/,
  },
  {
    check: 'services',
    what: 'peers only when ready',
    spoil: (o) => delete service(o, 'capstan-peers').spec?.publishNotReadyAddresses,
    found: /get ready only when they found/,
  },
  {
    check: 'services',
    what: 'a target port that nobody serves',
    spoil: (o) => Object.assign(service(o, 'capstan').spec?.ports?.[0] as object, { targetPort: 443 }),
    found: /no container serves https on 443/,
  },
  {
    check: 'quorum',
    what: 'a budget of one',
    spoil: (o) =>
      Object.assign(find<PodDisruptionBudget>({ objects: o }, 'PodDisruptionBudget').spec as object, {
        minAvailable: 1,
      }),
    found: /1 of 3 masters stay/,
  },
  {
    check: 'quorum',
    what: 'an even number',
    spoil: (o) => Object.assign(find<StatefulSet>({ objects: o }, 'StatefulSet').spec as object, { replicas: 4 }),
    found: /4 masters are an even number/,
  },
  {
    check: 'quorum',
    what: 'an ordered start',
    spoil: (o) => delete find<StatefulSet>({ objects: o }, 'StatefulSet').spec?.podManagementPolicy,
    found: /one after the other/,
  },
  {
    check: 'scheduling',
    what: 'apart by zone',
    spoil: (o) =>
      Object.assign(pod(o).affinity?.podAntiAffinity?.requiredDuringSchedulingIgnoredDuringExecution?.[0] as object, {
        topologyKey: 'zone',
      }),
    found: /kept apart by zone/,
  },
  {
    check: 'volumes',
    what: 'a mount of no volume',
    spoil: (o) => master(o).volumeMounts?.push({ name: 'x', mountPath: '/x', readOnly: true }),
    found: /master mounts x, which is no volume/,
  },
  {
    check: 'volumes',
    what: 'a volume that nobody mounts',
    spoil: (o) => pod(o).volumes?.push({ name: 'x', emptyDir: {} }),
    found: /nobody mounts the volume x/,
  },
  {
    check: 'volumes',
    what: 'a Secret that nobody makes',
    spoil: (o) =>
      Object.assign(pod(o).volumes?.find((v) => v.name === 'api-tls')?.secret as object, { secretName: 'x' }),
    found: /made of secret x, which does not exist/,
  },
  {
    check: 'volumes',
    what: 'a store without a disk',
    spoil: (o) => Object.assign(init(o, 1).volumeMounts?.at(-1) as object, { mountPath: '/data' }),
    found: /store keeps .* on no persistent volume/,
  },
  {
    check: 'files',
    what: "another member's configuration",
    spoil: (o) => Object.assign(init(o, 1), { args: ['/etc/capstan/config/store-capstan-0.json'] }),
    found: /store of capstan-1 is started with/,
  },
  {
    check: 'files',
    what: 'a member of another name',
    spoil: (o) => conf(o, 'store-capstan-2.json', (t) => t.replace('"member": "capstan-2"', '"member": "capstan-1"')),
    found: /store-capstan-2\.json is of capstan-1/,
  },
  {
    check: 'files',
    what: 'a member too few',
    spoil: (o) => conf(o, 'master.json', (t) => t.replace(/"capstan-1",\s*"capstan-2"/, '"capstan-1"')),
    found: /master\.json names other members/,
  },
  {
    check: 'files',
    what: 'credentials of all',
    spoil: (o) => delete master(o).volumeMounts?.at(-1)?.subPathExpr,
    found: /should be capstan-0\.apiserver\.creds of a Secret, and is not there/,
  },
  {
    check: 'files',
    what: 'credentials of others',
    spoil: (o) => {
      delete init(o, 1).volumeMounts?.at(-2)?.subPathExpr
    },
    found: /capstan-0 can read the credentials of capstan-1/,
  },
  {
    check: 'files',
    what: 'the authority in place of the certificate',
    spoil: (o) => conf(o, 'master.json', (t) => t.replace('api-tls/tls.crt', 'api-tls/ca.crt')),
    found: /should be tls\.crt of a Secret/,
  },
  {
    check: 'bus',
    what: 'a route too few',
    spoil: (o) => conf(o, 'nats.conf', (t) => t.replace(/^.*nats-route.*capstan-1\..*\n/m, '')),
    found: /no route leads to capstan-1/,
  },
  {
    check: 'bus',
    what: 'a route to another port',
    spoil: (o) => conf(o, 'nats.conf', (t) => t.replace('cluster.local:6222', 'cluster.local:6223')),
    found: /no route leads to capstan-0/,
  },
  {
    check: 'bus',
    what: 'routes in the clear',
    spoil: (o) => conf(o, 'nats.conf', (t) => t.replace(/^ {2}tls .*\n/m, '')),
    found: /must both use TLS/,
  },
  {
    check: 'bus',
    what: 'a bus that trusts nobody',
    spoil: (o) => conf(o, 'nats.conf', (t) => t.replace('include "authority.conf"', '')),
    found: /trusts nobody/,
  },
  {
    check: 'bus',
    what: 'another first server',
    spoil: (o) => conf(o, 'store-capstan-1.json', (t) => t.replace('127.0.0.1:4222', '127.0.0.1:4223')),
    found: /store-capstan-1\.json knows other servers/,
  },
  {
    check: 'ports',
    what: 'a port that is not the configured one',
    spoil: (o) => conf(o, 'master.json', (t) => t.replace('6443', '6444')),
    found: /listens on 6444, its container says 6443/,
  },
  {
    check: 'ports',
    what: 'two containers on one port',
    spoil: (o) => Object.assign(master(o).ports?.[0] as object, { containerPort: 4222 }),
    found: /two containers of the pod use one port/,
  },
  {
    check: 'ports',
    what: 'an etcd face elsewhere',
    values: { etcd: { enabled: true } },
    spoil: (o) => conf(o, 'etcd-capstan-0.json', (t) => t.replace('"port": 2379', '"port": 2380')),
    found: /etcd face of capstan-0 listens on 2380/,
  },
  {
    check: 'network policy',
    what: 'routes for everybody',
    spoil: (o) => delete policy(o).spec?.ingress?.[0]?.from,
    found: /routes of the bus must be open to the masters/,
  },
  {
    check: 'network policy',
    what: 'a rule about nothing',
    spoil: (o) => Object.assign(policy(o).spec?.ingress?.[1]?.ports?.[0] as object, { port: 443 }),
    found: /a rule is about port 443/,
  },
  {
    check: 'network policy',
    what: 'no names',
    spoil: (o) => policy(o).spec?.egress?.pop(),
    found: /may not ask for names/,
  },
  {
    check: 'network policy',
    what: 'every port',
    spoil: (o) => delete policy(o).spec?.ingress?.[1]?.ports,
    found: /a rule opens every port/,
  },
  {
    check: 'probes',
    what: 'readiness that is liveness',
    spoil: (o) => Object.assign(master(o).readinessProbe?.httpGet as object, { path: '/livez' }),
    found: /readinessProbe should ask \/readyz/,
  },
  {
    check: 'probes',
    what: 'a probe of no port',
    spoil: (o) => Object.assign(init(o, 0).readinessProbe?.tcpSocket as object, { port: 'x' }),
    found: /about port x, which it has not/,
  },
  {
    check: 'rights',
    what: 'a capability',
    spoil: (o) => delete master(o).securityContext?.capabilities,
    found: /master has capabilities/,
  },
  {
    check: 'rights',
    what: 'root',
    spoil: (o) => delete pod(o).securityContext?.runAsNonRoot,
    found: /may run as root/,
  },
  {
    check: 'rights',
    what: 'no bound of memory',
    spoil: (o) => delete init(o, 1).resources,
    found: /store has no bound of memory/,
  },
  {
    check: 'rights',
    what: 'another account',
    spoil: (o) => Object.assign(pod(o), { serviceAccountName: 'default' }),
    found: /run as default/,
  },
  {
    check: 'ending',
    what: 'a store that ends with the master',
    spoil: (o) => pod(o).containers.push(pod(o).initContainers?.pop() as Container),
    found: /nats-server, then store, must start before/,
  },
  {
    check: 'ending',
    what: 'a store that must end first',
    spoil: (o) => delete init(o, 1).restartPolicy,
    found: /the pod waits for store to end/,
  },
  {
    check: 'ending',
    what: 'a quick kill',
    spoil: (o) => Object.assign(pod(o), { terminationGracePeriodSeconds: 5 }),
    found: /killed before it has handed over/,
  },
]

const rendered = new Map<string, readonly KubernetesObject[]>()
function sound(values: Plain | undefined): KubernetesObject[] {
  const key = JSON.stringify(values ?? {})
  const objects = rendered.get(key) ?? render(values).objects
  rendered.set(key, objects)
  return [...objects]
}

for (const plant of PLANTS)
  test(`planted: ${plant.what} is found by the check of ${plant.check}`, () => {
    const objects = structuredClone(sound(plant.values))
    const check = CHECKS[plant.check] as (chart: Objects) => string[]
    const look = () => check(new Objects({ objects, secrets: secretsFor('capstan', {}), definitions }))
    assert.deepEqual(look(), [])
    plant.spoil(objects)
    assert.match(look().join('\n'), plant.found)
  })

test('planted: each check has a mistake to find', () => {
  assert.deepEqual(
    Object.keys(CHECKS).filter((check) => !PLANTS.some((plant) => plant.check === check)),
    [],
  )
})

test('a file of a pod is traced through mounts, sub-paths and items to its source', () => {
  const objects = new Objects({ objects: render().objects, secrets, definitions })
  const [, store] = containersOf(render())
  const trace = (path: string) => fileIn(objects, store as Container, 'capstan-1', path)
  assert.equal(trace('/etc/capstan/credentials/store.creds'), 'secret capstan-credentials capstan-1.store.creds')
  assert.equal(trace('/etc/capstan/config/master.json'), 'configMap capstan-config master.json')
  assert.equal(trace('/var/lib/capstan/store'), 'data')
  assert.equal(trace('/etc/capstan/bus-tls/tls.key'), undefined)
  assert.equal(parse(readFileSync(join(CHART, 'Chart.yaml'), 'utf8')).kubeVersion, '>=1.29.0-0')
})
