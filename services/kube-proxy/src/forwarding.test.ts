import assert from 'node:assert/strict'
import test from 'node:test'
import { computeForwards, type EndpointSliceView, type ServiceView } from './forwarding.js'

const service = (spec: Partial<ServiceView['spec']> = {}): ServiceView => ({
  metadata: { namespace: 'default', name: 'web' },
  spec: { type: 'ClusterIP', clusterIP: '10.96.0.10', ports: [{ name: 'http', protocol: 'TCP', port: 80 }], ...spec },
})
const slice = (endpoints: EndpointSliceView['endpoints']): EndpointSliceView => ({
  metadata: { namespace: 'default', name: 'web-1', labels: { 'kubernetes.io/service-name': 'web' } },
  addressType: 'IPv4',
  ports: [{ name: 'http', protocol: 'TCP', port: 8080 }],
  endpoints: endpoints ?? [],
})

test('ready endpoints are targets, in one order whatever the order of arrival', () => {
  const endpoints = [
    { addresses: ['10.244.1.2'], conditions: { ready: true } },
    { addresses: ['10.244.0.9'], conditions: { ready: true } },
    { addresses: ['10.244.0.1'], conditions: { ready: false } },
  ]
  const [forward] = computeForwards([service()], [slice(endpoints)], 'node-0')
  assert.deepEqual(forward?.targets, [
    { address: '10.244.0.9', port: 8080 },
    { address: '10.244.1.2', port: 8080 },
  ])
  assert.deepEqual(computeForwards([service()], [slice(endpoints.toReversed())], 'node-0'), [forward])
})

test('with no ready endpoint those that still serve while they terminate are used', () => {
  const [forward] = computeForwards(
    [service()],
    [
      slice([
        { addresses: ['10.244.0.1'], conditions: { ready: false, serving: true, terminating: true } },
        { addresses: ['10.244.0.2'], conditions: { ready: false, serving: false } },
      ]),
    ],
    'node-0',
  )
  assert.deepEqual(forward?.targets, [{ address: '10.244.0.1', port: 8080 }])
})

test('headless and ExternalName Services are not forwarded', () => {
  assert.deepEqual(
    computeForwards([service({ clusterIP: 'None' }), service({ type: 'ExternalName' })], [], 'node-0'),
    [],
  )
})

test('traffic policy Local keeps to the own node', () => {
  const endpoints = [
    { addresses: ['10.244.0.1'], conditions: { ready: true }, nodeName: 'node-0' },
    { addresses: ['10.244.1.1'], conditions: { ready: true }, nodeName: 'node-1' },
  ]
  const spec = {
    type: 'NodePort',
    externalTrafficPolicy: 'Local',
    ports: [{ name: 'http', port: 80, nodePort: 30_080 }],
  }
  const [forward] = computeForwards([service(spec)], [slice(endpoints)], 'node-1')
  assert.equal(forward?.nodePort, 30_080)
  assert.equal(forward?.targets.length, 2)
  assert.deepEqual(forward?.nodePortTargets, [{ address: '10.244.1.1', port: 8080 }])
})
