import { BusApiClient } from '@capstan/client'
import { type HollowRules, type KubeProxyHandle, startKubeProxy } from '@capstan/kube-proxy'
import {
  type ContainerRuntime,
  HollowHost,
  type HollowRuntime,
  type KubeletHandle,
  startKubelet,
} from '@capstan/kubelet'
import type { SimWorld } from '@capstan/sim'

export interface SimNode {
  kubelet: KubeletHandle
  proxy: KubeProxyHandle
  rules: HollowRules
}

/** What outlives the processes of a node, but not its machine: containers and packet rules that are only pretended. */
export interface SimHost {
  runtime: HollowRuntime
  rules: HollowRules
}

/**
 * The runtime as another process of the machine: it answers nobody when who asked has died, and late when that one stood still.
 * Without that a kubelet that was killed would go on when its runtime calls back.
 */
function overSocket(runtime: ContainerRuntime, { clock }: SimWorld): ContainerRuntime {
  const called = (value: (...given: unknown[]) => unknown, given: unknown[]): unknown => {
    const listening = given.map((one) =>
      typeof one === 'function' ? (...told: unknown[]) => clock.defer(() => void one(...told)) : one,
    )
    const answer = value.apply(runtime, listening)
    if (!(answer instanceof Promise)) return answer
    return new Promise((resolve, reject) => {
      answer.then(
        (result) => clock.defer(() => resolve(result)),
        (error: unknown) => clock.defer(() => reject(error as Error)),
      )
    })
  }
  return new Proxy(runtime, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? (...given: unknown[]) => called(value as () => unknown, given) : value
    },
  })
}

/** Kubelet and kube-proxy of a simulated node. */
export async function startSimNode(options: {
  name: string
  cluster: string
  host: SimHost
  kubelet: SimWorld
  proxy: SimWorld
}): Promise<SimNode> {
  const { name, cluster } = options
  const { runtime, rules } = options.host
  const kubelet = await startKubelet(
    options.kubelet,
    {
      cluster,
      nodeName: name,
      client: new BusApiClient(options.kubelet, { cluster, machine: name }),
      host: new HollowHost(),
      nodeIp: `10.0.0.${10 + Number(name.split('-')[1])}`,
      leaseRenewMs: 1000,
    },
    overSocket(runtime, options.kubelet),
  )
  const proxy = startKubeProxy(options.proxy, {
    client: new BusApiClient(options.proxy, { cluster, machine: name }),
    nodeName: name,
    rules,
  })
  return { kubelet, proxy, rules }
}
