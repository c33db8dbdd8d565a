import { invalid, notSupported, type StatusCause } from '../causes.js'
import { isObject, type KubeObject } from '../kube-object.js'
import { ageColumn, defineKind, specOf, statusOf } from './define.js'
import { validateLabelSelector } from './affinity.js'
import { count, validateMaxUnavailable } from './workloads.js'

/** PodDisruptionBudget: how many of some pods an eviction must leave. */

const UNHEALTHY_POLICIES = ['IfHealthyBudget', 'AlwaysAllow']

function validate(o: KubeObject): StatusCause[] {
  const spec = specOf(o)
  const { minAvailable, maxUnavailable, selector } = spec
  const causes: StatusCause[] = []
  if (minAvailable !== undefined && maxUnavailable !== undefined)
    causes.push(invalid('spec', spec, 'minAvailable and maxUnavailable cannot be both set'))
  if (minAvailable !== undefined) causes.push(...validateMaxUnavailable(minAvailable, 'spec.minAvailable'))
  if (maxUnavailable !== undefined) causes.push(...validateMaxUnavailable(maxUnavailable, 'spec.maxUnavailable'))
  if (isObject(selector)) causes.push(...validateLabelSelector(selector, 'spec.selector'))
  const policy = spec['unhealthyPodEvictionPolicy']
  if (policy !== undefined && !UNHEALTHY_POLICIES.includes(policy as string))
    causes.push(notSupported('spec.unhealthyPodEvictionPolicy', policy, UNHEALTHY_POLICIES))
  return causes
}

const amount = (value: unknown) => (value === undefined ? 'N/A' : String(value))

export const podDisruptionBudget = defineKind({
  group: 'policy',
  kind: 'PodDisruptionBudget',
  resource: 'poddisruptionbudgets',
  shortNames: ['pdb'],
  hasGeneration: true,
  definition: 'io.k8s.api.policy.v1.PodDisruptionBudget',
  subresources: ['status'],
  columns: [
    { name: 'Min Available', cell: (o) => amount(specOf(o)['minAvailable']) },
    { name: 'Max Unavailable', cell: (o) => amount(specOf(o)['maxUnavailable']) },
    { name: 'Allowed Disruptions', type: 'integer', cell: (o) => count(statusOf(o)['disruptionsAllowed']) },
    ageColumn,
  ],
  prepareForCreate(o) {
    // No eviction is granted before the controller has counted.
    o['status'] = { disruptionsAllowed: 0, currentHealthy: 0, desiredHealthy: 0, expectedPods: 0 }
  },
  validate,
})
