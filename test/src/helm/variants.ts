/** Values with which the chart is rendered in the tests, and compared with Helm's own engine by `helm-twin.ts`. */
import assert from 'node:assert/strict'
import type { StatefulSet } from 'kubernetes-types/apps/v1.js'
import type { ConfigMap, PodSpec, Service } from 'kubernetes-types/core/v1.js'
import type { NetworkPolicy } from 'kubernetes-types/networking/v1.js'
import type { PodDisruptionBudget } from 'kubernetes-types/policy/v1.js'
import type { Plain, Release, Rendered } from './chart.js'

export interface Variant {
  name: string
  values: Plain
  release?: Release
  expect(rendered: Rendered): void
}

const has = (rendered: Rendered, kind: string, name: string) =>
  rendered.objects.some((object) => object.kind === kind && object.metadata.name === name)
const find = <T>(rendered: Rendered, kind: string, name?: string): T => {
  const found = rendered.objects.find((o) => o.kind === kind && (name === undefined || o.metadata.name === name))
  assert.ok(found, `there is no ${kind} ${name ?? ''}`)
  return found as unknown as T
}
const set = (rendered: Rendered) => find<StatefulSet>(rendered, 'StatefulSet')
const pod = (rendered: Rendered) => set(rendered).spec?.template.spec as PodSpec
const policy = (rendered: Rendered) => find<NetworkPolicy>(rendered, 'NetworkPolicy')
const config = (rendered: Rendered, key: string) => find<ConfigMap>(rendered, 'ConfigMap').data?.[key] as string
const images = (rendered: Rendered) =>
  [...(pod(rendered).initContainers ?? []), ...pod(rendered).containers].map((container) => container.image)
const storeOf = (rendered: Rendered, member: string) =>
  JSON.parse(config(rendered, `store-${member}.json`)) as Record<string, unknown>
const digest = `sha256:${'0123456789abcdef'.repeat(4)}`
const peer = [{ ipBlock: { cidr: '192.0.2.0/24' } }]

export const VARIANTS: readonly Variant[] = [
  {
    name: 'another release, in another namespace',
    values: {},
    release: { name: 'sea', namespace: 'ships' },
    expect(rendered) {
      assert.equal(set(rendered).metadata?.name, 'sea')
      assert.match(config(rendered, 'nats.conf'), /sea-2\.sea-peers\.ships\.svc\.cluster\.local:6222/)
    },
  },
  {
    name: 'a name and a domain of its own',
    values: { fullnameOverride: 'drum', clusterDomain: 'example.net' },
    expect: (rendered) => assert.match(config(rendered, 'nats.conf'), /drum-0\.drum-peers\.default\.svc\.example\.net/),
  },
  ...[1, 5, 9].map((replicas) => ({
    name: `${replicas} masters`,
    values: { replicas },
    expect(rendered: Rendered) {
      assert.equal(set(rendered).spec?.replicas, replicas)
      const budget = find<PodDisruptionBudget>(rendered, 'PodDisruptionBudget')
      assert.equal(budget.spec?.minAvailable, { 1: 1, 5: 3, 9: 5 }[replicas])
      assert.match(rendered.notes, replicas === 1 ? /^1 master of/ : new RegExp(`^${replicas} masters of`))
    },
  })),
  {
    name: 'the first install makes founders',
    values: {},
    expect(rendered) {
      assert.equal(storeOf(rendered, 'capstan-1')['emptyDirectory'], 'new')
      assert.match(rendered.notes, /upgrade capstan CHART --reuse-values$/m)
    },
  },
  {
    name: 'an upgrade does not',
    values: {},
    release: { isInstall: false },
    expect(rendered) {
      assert.equal(storeOf(rendered, 'capstan-1')['emptyDirectory'], 'existing')
      assert.doesNotMatch(rendered.notes, /reuse-values/)
    },
  },
  {
    name: 'bootstrap by hand: new',
    values: { cluster: { bootstrap: 'new' } },
    release: { isInstall: false },
    expect(rendered) {
      assert.equal(storeOf(rendered, 'capstan-1')['emptyDirectory'], 'new')
      assert.match(rendered.notes, /--reuse-values --set cluster\.bootstrap=existing$/m)
    },
  },
  {
    name: 'bootstrap by hand: existing',
    values: { cluster: { bootstrap: 'existing' } },
    expect: (rendered) => assert.equal(storeOf(rendered, 'capstan-1')['emptyDirectory'], 'existing'),
  },
  {
    name: 'networks and tolerations',
    values: { cluster: { podCidr: '10.1.0.0/16', serviceCidr: '10.2.0.0/16', tolerationSeconds: 30 } },
    expect(rendered) {
      const master = JSON.parse(config(rendered, 'master.json')) as Record<string, unknown>
      assert.deepEqual(
        [master['podCidr'], master['serviceCidr'], master['tolerationSeconds']],
        ['10.1.0.0/16', '10.2.0.0/16', 30],
      )
    },
  },
  {
    name: 'an image by tag, from a registry with a secret',
    values: {
      image: { repository: 'registry.example.org/c', tag: 'v7', pullPolicy: 'Always', pullSecrets: [{ name: 'r' }] },
    },
    expect(rendered) {
      assert.deepEqual(new Set(images(rendered)), new Set(['registry.example.org/c:v7']))
      assert.deepEqual(pod(rendered).imagePullSecrets, [{ name: 'r' }])
      assert.equal(pod(rendered).containers[0]?.imagePullPolicy, 'Always')
    },
  },
  {
    name: 'an image by digest, and another for the bus',
    values: { image: { tag: 'v7', digest }, bus: { image: 'docker.io/library/nats:2.10' } },
    expect: (rendered) =>
      assert.deepEqual(images(rendered), [
        'docker.io/library/nats:2.10',
        `localhost/capstan/master@${digest}`,
        `localhost/capstan/master@${digest}`,
      ]),
  },
  {
    name: 'resources',
    values: {
      master: { resources: { limits: { cpu: 2, memory: '2Gi' } } },
      store: { resources: { requests: { cpu: '1500m' } } },
      bus: { resources: { limits: { memory: '1G' } } },
    },
    expect(rendered) {
      assert.deepEqual(pod(rendered).containers[0]?.resources?.limits, { cpu: 2, memory: '2Gi' })
      assert.equal(pod(rendered).initContainers?.[1]?.resources?.requests?.['cpu'], '1500m')
      assert.equal(pod(rendered).initContainers?.[0]?.resources?.limits?.['memory'], '1G')
    },
  },
  {
    name: 'the store: times, log, volume',
    values: {
      store: {
        heartbeatMs: 200,
        electionTimeoutMs: 1000,
        logLevel: 'debug',
        storage: { size: '100Gi', storageClass: 'local-ssd', accessMode: 'ReadWriteOncePod' },
      },
    },
    expect(rendered) {
      const store = storeOf(rendered, 'capstan-0')
      assert.deepEqual([store['heartbeatMs'], store['electionTimeoutMs'], store['logLevel']], [200, 1000, 'debug'])
      const claim = set(rendered).spec?.volumeClaimTemplates?.[0]?.spec
      assert.deepEqual(claim, {
        accessModes: ['ReadWriteOncePod'],
        storageClassName: 'local-ssd',
        resources: { requests: { storage: '100Gi' } },
      })
    },
  },
  {
    name: 'other ports',
    values: { bus: { port: 14222, routePort: 16222 }, api: { port: 16443 }, etcd: { enabled: true, port: 12379 } },
    expect(rendered) {
      assert.equal(find<Service>(rendered, 'Service', 'capstan').spec?.ports?.[0]?.port, 16443)
      assert.match(config(rendered, 'nats.conf'), /listen: "0\.0\.0\.0:14222"/)
      assert.match(rendered.notes, /port-forward service\/capstan 16443/)
    },
  },
  {
    name: 'the bus is open to nodes outside',
    values: {
      bus: { service: { enabled: true, annotations: { a: 'true' }, loadBalancerSourceRanges: ['198.51.100.0/24'] } },
    },
    expect(rendered) {
      const service = find<Service>(rendered, 'Service', 'capstan-bus')
      assert.equal(service.spec?.type, 'LoadBalancer')
      assert.deepEqual(service.spec?.loadBalancerSourceRanges, ['198.51.100.0/24'])
      assert.deepEqual(service.metadata?.annotations, { a: 'true' })
      const open = policy(rendered).spec?.ingress?.filter((rule) => rule.from === undefined)
      assert.deepEqual(
        open?.flatMap((rule) => rule.ports?.map((port) => port.port)),
        [6443, 4222],
      )
    },
  },
  {
    name: 'the bus by node port, for some',
    values: {
      bus: { service: { enabled: true, type: 'NodePort', nodePort: 30422 } },
      networkPolicy: { busFrom: peer },
    },
    expect(rendered) {
      assert.equal(find<Service>(rendered, 'Service', 'capstan-bus').spec?.ports?.[0]?.nodePort, 30422)
      assert.deepEqual(policy(rendered).spec?.ingress?.[2]?.from, peer)
    },
  },
  {
    name: 'the API by load balancer, for some, at an address of its own',
    values: {
      api: {
        advertiseAddress: '203.0.113.7',
        service: {
          type: 'LoadBalancer',
          nodePort: 30443,
          annotations: { b: '1' },
          loadBalancerSourceRanges: ['192.0.2.0/24'],
        },
      },
      networkPolicy: { apiFrom: peer },
    },
    expect(rendered) {
      const service = find<Service>(rendered, 'Service', 'capstan')
      assert.equal(service.spec?.ports?.[0]?.nodePort, 30443)
      assert.deepEqual(service.spec?.loadBalancerSourceRanges, ['192.0.2.0/24'])
      assert.deepEqual(policy(rendered).spec?.ingress?.[1]?.from, peer)
      const address = pod(rendered).containers[0]?.env?.find((one) => one.name === 'ADVERTISE_ADDRESS')
      assert.deepEqual(address, { name: 'ADVERTISE_ADDRESS', value: '203.0.113.7' })
      assert.match(rendered.notes, /its address must be in the API server's certificate/)
    },
  },
  {
    name: 'etcd, for nobody yet',
    values: { etcd: { enabled: true } },
    expect(rendered) {
      assert.ok(has(rendered, 'Service', 'capstan-etcd'))
      assert.equal(pod(rendered).containers[1]?.name, 'etcd')
      assert.ok(!JSON.stringify(policy(rendered)).includes('2379'))
    },
  },
  {
    name: 'etcd, for some',
    values: { etcd: { enabled: true, resources: { limits: { memory: '1Gi' } } }, networkPolicy: { etcdFrom: peer } },
    expect: (rendered) => assert.deepEqual(policy(rendered).spec?.ingress?.at(-1)?.from, peer),
  },
  {
    name: 'Secrets under names of the user',
    values: {
      etcd: { enabled: true },
      secrets: { apiTls: 'a', busTls: 'b', etcdTls: 'e', busAuthority: 'o', credentials: 'c', serviceAccount: 's' },
    },
    expect: (rendered) =>
      assert.doesNotMatch(JSON.stringify(pod(rendered).volumes), /ecret(Name)?":(\{"name":)?"capstan-/),
  },
  {
    name: 'masters rather apart, zones strictly',
    values: { scheduling: { hosts: 'preferred', zones: 'required' } },
    expect(rendered) {
      const anti = pod(rendered).affinity?.podAntiAffinity
      assert.equal(anti?.requiredDuringSchedulingIgnoredDuringExecution, undefined)
      assert.equal(anti?.preferredDuringSchedulingIgnoredDuringExecution?.length, 1)
      assert.equal(pod(rendered).topologySpreadConstraints?.[0]?.whenUnsatisfiable, 'DoNotSchedule')
    },
  },
  {
    name: 'masters anywhere',
    values: { scheduling: { hosts: 'none', zones: 'none' } },
    expect(rendered) {
      assert.equal(pod(rendered).affinity, undefined)
      assert.equal(pod(rendered).topologySpreadConstraints, undefined)
    },
  },
  {
    name: 'hosts of some kind',
    values: {
      scheduling: {
        nodeSelector: { role: 'control' },
        tolerations: [{ key: 'control', operator: 'Exists', effect: 'NoSchedule' }],
        priorityClassName: 'system-cluster-critical',
      },
    },
    expect(rendered) {
      assert.deepEqual(pod(rendered).nodeSelector, { role: 'control' })
      assert.equal(pod(rendered).tolerations?.[0]?.key, 'control')
      assert.equal(pod(rendered).priorityClassName, 'system-cluster-critical')
    },
  },
  {
    name: 'no budget and no network policy',
    values: { podDisruptionBudget: { enabled: false }, networkPolicy: { enabled: false } },
    expect(rendered) {
      assert.ok(!has(rendered, 'PodDisruptionBudget', 'capstan'))
      assert.ok(!has(rendered, 'NetworkPolicy', 'capstan'))
    },
  },
  {
    name: 'an account of its own',
    values: { serviceAccount: { name: 'masters', annotations: { c: 'd' } } },
    expect(rendered) {
      assert.ok(has(rendered, 'ServiceAccount', 'masters'))
      assert.equal(pod(rendered).serviceAccountName, 'masters')
    },
  },
  {
    name: 'an account that is there',
    values: { serviceAccount: { create: false, name: 'given' } },
    expect(rendered) {
      assert.ok(!rendered.objects.some((object) => object.kind === 'ServiceAccount'))
      assert.equal(pod(rendered).serviceAccountName, 'given')
    },
  },
  {
    name: 'the default account',
    values: { serviceAccount: { create: false } },
    expect: (rendered) => assert.equal(pod(rendered).serviceAccountName, 'default'),
  },
  {
    name: 'labels and annotations of pods, times',
    values: {
      podLabels: { team: 'sea', odd: 'yes' },
      podAnnotations: { note: 'a: "b" # c' },
      terminationGracePeriodSeconds: 90,
      minReadySeconds: 30,
    },
    expect(rendered) {
      const { metadata } = set(rendered).spec?.template ?? {}
      assert.equal(metadata?.labels?.['odd'], 'yes')
      assert.equal(metadata?.annotations?.['note'], 'a: "b" # c')
      assert.equal(pod(rendered).terminationGracePeriodSeconds, 90)
      assert.equal(set(rendered).spec?.minReadySeconds, 30)
    },
  },
]
