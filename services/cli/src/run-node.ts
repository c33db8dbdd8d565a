/**
 * The process of one node: `programs/run-node.js DATA NAME`. Leader of the machine's process group. Holds kubelet and kube-proxy, and
 * supervises the node's containerd and its guard, which is outside the group. With containers it runs in the node's network namespace.
 */
import { HollowRules, NftablesRules } from '@capstan/kube-proxy'
import { realLog } from '@capstan/real'
import { processClock } from './chaos-door.js'
import { existingLayout } from './layout-file.js'
import { namesOf, Places } from './layout.js'
import { startNodeParts } from './node-parts.js'
import { once, within } from './patience.js'
import { realWorld } from './worlds.js'

const CLOSE_TIMEOUT_MS = 1000

const [data = '', name = ''] = process.argv.slice(2)
const places = new Places(data)
const layout = existingLayout(places)
const node = layout.nodes.find((one) => one.name === name)
if (!node) throw new Error(`no node ${name} in ${places.layout}`)
const log = realLog({ name })
const clock = await processClock(places, name, log)

const parts = await startNodeParts(
  places,
  log,
  (component) =>
    realWorld(layout, places, { component, name }, { log: log.child({ component }), machine: name, clock }),
  {
    cluster: layout.cluster,
    name,
    address: node.address,
    runtime: layout.runtime,
    cgroupParent: `/${namesOf(layout).cgroup(name)}/pods`,
    // The host's routes to pods follow from the layout too.
    podCidr: node.podCidr,
    ...(layout.identity ? { identity: layout.identity } : {}),
    // Without a namespace of its own a node has no packet rules of its own: the gateway's serve the whole host.
    rules: layout.isolated ? new NftablesRules('capstan') : new HollowRules(),
  },
)

const stop = once(async (signal: string) => {
  log.info({ signal }, 'stopping')
  await parts.stop()
  await within(CLOSE_TIMEOUT_MS, Promise.all(parts.worlds.map(({ bus }) => bus.close())))
  process.exit(0)
})
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal))
