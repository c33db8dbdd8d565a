/** One entry of a machine's IPv4 routing table: by way of a neighbour (`via`), or out of a device. */
export interface Route {
  /** `10.244.1.0/24` */
  destination: string
  via?: string
  device?: string
  /** Which of the machine's addresses its programs then have. */
  source?: string
}

export interface PresentRoute extends Route {
  /** Made through this port, in this or an earlier life. */
  own: boolean
}

/** The routing table of one machine. Bodies: `ip` (edge) and hollow. */
export interface Routes {
  list(): Promise<PresentRoute[]>
  /** @throws Error if there is one to that destination, or the neighbour is on none of the machine's networks. */
  add(route: Route): Promise<void>
  /** Puts it in the place of our own route to that destination, without a moment between. */
  change(route: Route): Promise<void>
  /** One of ours. */
  remove(route: Route): Promise<void>
}

export interface RoutePlan {
  add: Route[]
  change: Route[]
  remove: Route[]
  /** There is somebody else's route to that destination, and it leads elsewhere. */
  blocked: { route: Route; by: Route }[]
}

/** What makes of `present` a table that has all of `wanted` and none other of ours. Pure. */
export function planRoutes(wanted: readonly Route[], present: readonly PresentRoute[]): RoutePlan {
  const plan: RoutePlan = { add: [], change: [], remove: [], blocked: [] }
  const destinations = new Set(wanted.map((route) => route.destination))
  for (const route of present) if (route.own && !destinations.has(route.destination)) plan.remove.push(route)
  for (const route of wanted) {
    const there = present.filter((one) => one.destination === route.destination)
    const ours = there.find((one) => one.own)
    if (there.some((one) => leadsAs(one, route))) continue
    if (ours) plan.change.push(route)
    else if (there[0]) plan.blocked.push({ route, by: there[0] })
    else plan.add.push(route)
  }
  return plan
}

/** The kernel tells a device also of routes that were made without one. */
function leadsAs(one: Route, wanted: Route): boolean {
  if (one.via !== wanted.via) return false
  return wanted.via !== undefined || (one.device === wanted.device && one.source === wanted.source)
}

/** Pretends: for the simulation and for tests. Neighbours that are not `reachable` are refused, as a kernel does. */
export class HollowRoutes implements Routes {
  readonly table: PresentRoute[] = []
  reachable: (via: string) => boolean = () => true

  async list(): Promise<PresentRoute[]> {
    return this.table.map((route) => ({ ...route }))
  }

  async add(route: Route): Promise<void> {
    if (this.table.some((one) => one.destination === route.destination)) throw new Error('File exists')
    if (route.via !== undefined && !this.reachable(route.via)) throw new Error('Nexthop has invalid gateway.')
    this.table.push({ ...route, own: true })
  }

  async change(route: Route): Promise<void> {
    await this.remove(route)
    await this.add(route)
  }

  async remove(route: Route): Promise<void> {
    const at = this.table.findIndex((one) => one.own && one.destination === route.destination)
    if (at < 0) throw new Error('No such process')
    this.table.splice(at, 1)
  }
}
