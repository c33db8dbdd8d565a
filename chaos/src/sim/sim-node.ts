import { BusApiClient } from '@capstan/client'
import { HollowRules, type KubeProxyHandle, startKubeProxy } from '@capstan/kube-proxy'
import { HollowHost, HollowRuntime, type KubeletHandle, startKubelet } from '@capstan/kubelet'
import type { SimWorld } from '@capstan/sim'

export interface SimNode {
  kubelet: KubeletHandle
  proxy: KubeProxyHandle
  rules: HollowRules
}

/** Kubelet and kube-proxy of a simulated node, over a runtime and packet rules that pretend. */
export async function startSimNode(options: {
  name: string
  cluster: string
  kubelet: SimWorld
  proxy: SimWorld
}): Promise<SimNode> {
  const { name, cluster } = options
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
    new HollowRuntime(options.kubelet),
  )
  const rules = new HollowRules()
  const proxy = startKubeProxy(options.proxy, {
    client: new BusApiClient(options.proxy, { cluster, machine: name }),
    nodeName: name,
    rules,
  })
  return { kubelet, proxy, rules }
}
