/**
 * `run-gateway.js DATA`: the host's own way into the cluster, in a process group of its own. A balancer before the API
 * servers, to which the admin's kubeconfig points, and the Service addresses for programs of this host. No machine needs it.
 */
import { BusApiClient } from '@capstan/client'
import { NftablesRules, startKubeProxy, UserspaceRules } from '@capstan/kube-proxy'
import { realLog } from '@capstan/real'
import { AdminClient } from './admin-client.js'
import { Balancer } from './balancer.js'
import { existingLayout } from './layout-file.js'
import { Places } from './layout.js'
import { realWorld } from './worlds.js'

const [data = ''] = process.argv.slice(2)
const places = new Places(data)
const layout = existingLayout(places)
const log = realLog({ name: 'gateway' })

const admin = new AdminClient(places)
const balancer = new Balancer({
  listen: [...new Set(['127.0.0.1', layout.hostAddress])].map((host) => ({ host, port: layout.port })),
  backends: layout.masters.map((m) => ({ host: '127.0.0.1', port: m.apiPort })),
  check: async (backend) => (await admin.request({ ...backend, path: '/readyz' }, 1000))?.status === 200,
})
await balancer.start()

const world = await realWorld(layout, places, { component: 'kube-proxy', name: 'gateway' }, { log, machine: 'gateway' })
const proxy = startKubeProxy(world, {
  client: new BusApiClient(world, { cluster: layout.cluster, machine: 'gateway' }),
  nodeName: '',
  rules: layout.isolated
    ? new NftablesRules(`capstan${layout.slot}`)
    : new UserspaceRules(log, world.random.fork('userspace')),
})

let stopping = false
for (const signal of ['SIGTERM', 'SIGINT'] as const)
  process.on(signal, () => {
    if (stopping) return
    stopping = true
    balancer.close()
    void proxy
      .stop({ clear: true })
      .then(() => world.bus.close())
      .finally(() => process.exit(0))
  })
