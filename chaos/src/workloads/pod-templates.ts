import type { Access } from '../harness/types.js'
import { APP, type OwnerKind, TEMPLATE, type Wanted } from './desired-state.js'

/** What a container of the workload is, for each runtime. */
function container(runtime: Access['runtime'], serves: boolean) {
  switch (runtime) {
    case 'containerd':
      return serves
        ? { name: 'web', image: 'nginx', ports: [{ containerPort: 80 }] }
        : { name: 'idle', image: 'busybox', command: ['sleep', '1000000'] }
    case 'process':
      return { name: 'idle', image: 'none', command: ['sleep', '1000000'] }
    default:
      return { name: 'idle', image: 'registry.k8s.io/pause:3.9' }
  }
}

export function podTemplate(runtime: Access['runtime'], app: string, template: number, serves: boolean) {
  return {
    metadata: { labels: { [APP]: app }, annotations: { [TEMPLATE]: String(template) } },
    spec: { terminationGracePeriodSeconds: 1, containers: [container(runtime, serves)] },
  }
}

export function ownerObject(runtime: Access['runtime'], { kind, name, replicas, template }: Wanted, serves: boolean) {
  return {
    apiVersion: 'apps/v1',
    kind,
    metadata: { name, labels: { [APP]: name } },
    spec: {
      replicas,
      selector: { matchLabels: { [APP]: name } },
      template: podTemplate(runtime, name, template, serves),
      ...(kind === 'StatefulSet' ? { serviceName: name } : {}),
    },
  }
}

export const RESOURCE_OF: Readonly<Record<OwnerKind, string>> = {
  Deployment: 'deployments',
  ReplicaSet: 'replicasets',
  StatefulSet: 'statefulsets',
}
