import { parseQuantity } from '@capstan/api'
import type { ContainerView, PodView } from './views.js'

/** Amounts by resource name: cpu in millicores, `pods` in pods, all else in its own unit (bytes). Whole numbers. */
export type Resources = Map<string, number>

/** Figures that scores use for a container that requests nothing, so that such pods spread too (as kube-scheduler). */
const NON_ZERO_CPU_MILLI = 100
const NON_ZERO_MEMORY_BYTES = 200 * 1024 * 1024

export function amountOf(resource: string, quantity: string): number {
  const value = parseQuantity(String(quantity))
  return resource === 'cpu' ? value.milli() : value.ceil()
}

export function resourcesOf(quantities: Record<string, string> | undefined): Resources {
  const out: Resources = new Map()
  for (const name of Object.keys(quantities ?? {}).sort()) out.set(name, amountOf(name, quantities?.[name] as string))
  return out
}

/** What a pod asks for: the sum of its containers and sidecars, or the largest init container if that is more; overhead. */
export function podRequests(pod: PodView): Resources {
  const sum: Resources = new Map()
  const sidecars: Resources = new Map()
  const peak: Resources = new Map()
  for (const container of pod.spec.containers) add(sum, resourcesOf(container.resources?.requests))
  for (const init of pod.spec.initContainers ?? []) {
    const requests = resourcesOf(init.resources?.requests)
    if (init.restartPolicy === 'Always') {
      add(sidecars, requests)
      raise(peak, sidecars)
    } else {
      const during = new Map(sidecars)
      add(during, requests)
      raise(peak, during)
    }
  }
  add(sum, sidecars)
  raise(sum, peak)
  add(sum, resourcesOf(pod.spec.overhead))
  sum.set('pods', 1)
  return sum
}

/** As `podRequests` for cpu and memory, with a floor for containers that request none. For scores only. */
export function podLoad(pod: PodView): { cpuMilli: number; memoryBytes: number } {
  const requested = (container: ContainerView, name: string, floor: number) => {
    const quantity = container.resources?.requests?.[name]
    return quantity === undefined ? floor : amountOf(name, quantity)
  }
  let cpuMilli = 0
  let memoryBytes = 0
  for (const container of pod.spec.containers) {
    cpuMilli += requested(container, 'cpu', NON_ZERO_CPU_MILLI)
    memoryBytes += requested(container, 'memory', NON_ZERO_MEMORY_BYTES)
  }
  return { cpuMilli, memoryBytes }
}

export function add(into: Resources, more: Resources, sign: 1 | -1 = 1): void {
  for (const [name, amount] of more) into.set(name, (into.get(name) ?? 0) + sign * amount)
}

function raise(into: Resources, floor: Resources): void {
  for (const [name, amount] of floor) into.set(name, Math.max(into.get(name) ?? 0, amount))
}
