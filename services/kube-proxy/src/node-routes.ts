import { every, spawn, type World } from '@capstan/actor'
import { type Ipv4Network, isIPv4, networksOverlap, networkWithin, parseIpv4Network } from '@capstan/api'
import { type ApiClient, byText, Informer, type KubeObject, RESOURCES } from '@capstan/client'
import { planRoutes, type Route, type Routes } from './routes.js'

const LOOK_MS = 5000

export interface NodeRoutesOptions {
  client: ApiClient
  /** The node that this machine is; empty on a master. */
  nodeName: string
  /** This machine's address among the machines. */
  address: string
  /** Only pod networks within it are routed, whatever a Node says. */
  clusterCidr: string
  /**
   * With it programs of this machine reach Services even where it has no default route, and with this machine's `address` as
   * their own: kube-proxy rewrites such packets before they leave.
   */
  serviceCidr?: string
  routes: Routes
  /** So often the table is compared even if nothing seems to have changed: somebody may have removed a route. Default 5,000. */
  lookMs?: number
}

export interface NodeRoutesHandle {
  /** Every route that is wanted was found or made at the last look. */
  readonly synced: boolean
  /** `clear`: also removes the routes (the machine leaves); otherwise they go on working. */
  stop(options?: { clear: boolean }): Promise<void>
}

export interface NodeView extends KubeObject {
  spec?: { podCIDR?: string }
  status?: { addresses?: { type: string; address: string }[] }
}

/**
 * Keeps, on one machine, a route to every other node's pods by way of that node's InternalIP ("host-gw": all machines on one
 * network). Follows Nodes; puts back what was removed; touches no route that it did not make. Needs no master to go on working.
 */
export function startNodeRoutes(world: World, options: NodeRoutesOptions): NodeRoutesHandle {
  const log = world.log.child({ component: 'node-routes' })
  const { routes } = options
  const nodes = new Informer<NodeView>(world, options.client, RESOURCES.nodes)
  let synced = false
  let told = ''

  // One look waits at most: it will see everything that has changed until it begins.
  const keeper = spawn<'look'>(
    world,
    { name: `node-routes/${options.nodeName || options.address}`, mailboxMax: 1 },
    () => ({
      async receive() {
        // From half a list, routes to nodes that are well would be removed.
        if (!nodes.synced) return
        const { wanted, left } = wantedRoutes(nodes.list(), options)
        const troubles = [...left]
        try {
          const plan = planRoutes(wanted, await routes.list())
          for (const { route, by } of plan.blocked)
            troubles.push(`${route.destination}: a route that is not ours stands there (${describeRoute(by)})`)
          const attempt = async (what: string, route: Route, run: (route: Route) => Promise<void>) => {
            try {
              await run(route)
              log.info({ route: describeRoute(route) }, `${what} a route`)
            } catch (error) {
              troubles.push(`${route.destination}: ${(error as Error).message}`)
            }
          }
          for (const route of plan.remove) await attempt('removed', route, (one) => routes.remove(one))
          for (const route of plan.change) await attempt('changed', route, (one) => routes.change(one))
          for (const route of plan.add) await attempt('made', route, (one) => routes.add(one))
        } catch (error) {
          troubles.push((error as Error).message)
        }
        synced = troubles.length === 0
        const text = troubles.join('; ')
        if (text !== told && text !== '') log.error({ troubles }, 'not every node has its route; will be tried again')
        told = text
      },
    }),
  )
  const look = () => void keeper.tell('look')
  nodes.addHandler({ add: look, update: look, delete: look })
  nodes.start()
  const stopLooking = every(world.clock, options.lookMs ?? LOOK_MS, look)
  void nodes.whenSynced().then((ok) => ok && look())

  return {
    get synced() {
      return synced
    },
    async stop(stopOptions = { clear: false }) {
      stopLooking()
      nodes.stop()
      await keeper.stop()
      if (stopOptions.clear) for (const route of await routes.list()) if (route.own) await routes.remove(route)
    },
  }
}

/** The routes that this machine should have, by destination; and the Nodes that get none though they have a pod network, with why. */
export function wantedRoutes(
  nodes: readonly NodeView[],
  options: Pick<NodeRoutesOptions, 'nodeName' | 'address' | 'clusterCidr' | 'serviceCidr'>,
): { wanted: Route[]; left: string[] } {
  const cluster = parseIpv4Network(options.clusterCidr)
  if (!cluster) throw new RangeError(`not an IPv4 network: ${options.clusterCidr}`)
  const wanted: Route[] = []
  const left: string[] = []
  const taken: { name: string; network: Ipv4Network }[] = []
  const age = (node: NodeView) => node.metadata.creationTimestamp ?? ''
  const isSelf = (node: NodeView) => node.metadata.name === options.nodeName
  // Its own network first, whoever is older: this machine's pods are in it.
  const inOrder = [...nodes].sort(
    (a, b) =>
      Number(isSelf(b)) - Number(isSelf(a)) ||
      byText(age(a), age(b)) ||
      byText(a.metadata.name ?? '', b.metadata.name ?? ''),
  )
  for (const node of inOrder) {
    const name = node.metadata.name ?? ''
    const podCidr = node.spec?.podCIDR
    if (!podCidr) continue
    const network = parseIpv4Network(podCidr)
    if (!network || !networkWithin(network, cluster)) {
      left.push(`node ${name}: its pod network ${podCidr} is not within ${options.clusterCidr}`)
      continue
    }
    const other = taken.find((one) => networksOverlap(one.network, network))
    if (other) {
      left.push(`node ${name}: its pod network ${podCidr} overlaps that of node ${other.name}`)
      continue
    }
    taken.push({ name, network })
    const via = node.status?.addresses?.find((one) => one.type === 'InternalIP' && isIPv4(one.address))?.address
    // A master may share its machine with a node: the pods are here.
    if (isSelf(node) || via === options.address) continue
    if (via === undefined) left.push(`node ${name} has no InternalIP`)
    else wanted.push({ destination: podCidr, via })
  }
  if (options.serviceCidr) wanted.push({ destination: options.serviceCidr, device: 'lo', source: options.address })
  return { wanted, left }
}

export const describeRoute = ({ destination, via, device, source }: Route): string =>
  [destination, via && `via ${via}`, device && `dev ${device}`, source && `src ${source}`].filter(Boolean).join(' ')
