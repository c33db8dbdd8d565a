/** `pods/eviction`: a graceful deletion, if the pod's PodDisruptionBudget leaves room for it. */
import { labelSelectorMatcher } from '@capstan/api'
import type { ApiReply } from '@capstan/protocol'
import { ApiError, badRequest, failure, methodNotAllowed, notFound } from './errors.js'
import { resourceKey, resourcePrefix } from './keys.js'
import { type Ask, type Rest, timestamp } from './rest.js'
import type { KubeObject } from './stored.js'

const BUDGETS = { group: 'policy', version: 'v1', resource: 'poddisruptionbudgets' }
/** Evictions granted and not seen to have happened by the controller; more are refused until it has looked. */
const DISRUPTED_MAX = 2000
const NOT_COUNTED_RETRY_SECONDS = 10

interface Budget extends KubeObject {
  spec?: { selector?: object; unhealthyPodEvictionPolicy?: string }
  status?: {
    observedGeneration?: number
    disruptionsAllowed: number
    currentHealthy: number
    desiredHealthy: number
    disruptedPods?: Record<string, string>
  }
}

interface EvictedPod extends KubeObject {
  status?: { phase?: string; conditions?: { type: string; status: string }[] }
}

export async function evict(rest: Rest, verb: string, ask: Ask): Promise<ApiReply> {
  if (verb !== 'create') throw methodNotAllowed()
  const eviction = (ask.request.body ?? {}) as { metadata?: { name?: string }; deleteOptions?: unknown }
  const named = eviction.metadata?.name
  if (named !== undefined && named !== ask.request.name)
    throw badRequest(`name in URL does not match name in Eviction object: ${ask.request.name} is not ${named}`)
  const { dryRun } = (eviction.deleteOptions ?? {}) as { dryRun?: string[] }
  await grant(rest, dryRun?.includes('All') ? { ...ask, options: { ...ask.options, dryRun: true } } : ask)
  await rest.deleteOne(ask, eviction.deleteOptions)
  const body = { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', code: 201 }
  return { status: 201, body: Buffer.from(JSON.stringify(body)) }
}

/** Takes one disruption from the pod's budget, if it has one. @throws ApiError 429: not now */
async function grant(rest: Rest, ask: Ask): Promise<void> {
  const pod = (await rest.read(ask)).object as EvictedPod
  const { name, namespace = '', labels, deletionTimestamp } = pod.metadata
  const phase = pod.status?.phase
  // It serves nobody any more, or not yet.
  if (deletionTimestamp !== undefined || phase === 'Succeeded' || phase === 'Failed' || phase === 'Pending') return
  const budgets = [
    ...rest.context.cache
      .resource(resourceKey(BUDGETS.group, BUDGETS.resource))
      .under(resourcePrefix(BUDGETS.group, BUDGETS.resource, namespace)),
  ].filter(({ object }) => labelSelectorMatcher((object as Budget).spec?.selector as never)(labels))
  if (budgets.length === 0) return
  if (budgets.length > 1)
    throw new ApiError(
      failure(
        500,
        'InternalError',
        'This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.',
      ),
    )
  const budgetName = budgets[0]?.object.metadata.name as string
  const isReady = pod.status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True') ?? false
  const budgetAsk = rest.ask({ ...BUDGETS, namespace, name: budgetName, options: ask.options }, ask.user, {})
  await rest.edit(budgetAsk, (stored) => {
    if (!stored) throw notFound({ group: BUDGETS.group, resource: BUDGETS.resource, name: budgetName })
    const budget = stored.copy() as Budget
    const { status, spec, metadata } = budget
    if (!status || (status.observedGeneration ?? 0) < (metadata.generation ?? 0))
      throw tooMany(
        `Cannot evict pod as it would violate the pod's disruption budget.`,
        `The disruption budget ${budgetName} is still being processed by the server.`,
        NOT_COUNTED_RETRY_SECONDS,
      )
    const { disruptionsAllowed, currentHealthy, desiredHealthy } = status
    // A pod that is not ready is counted as away already: it takes nothing.
    const isEnough = currentHealthy >= desiredHealthy && desiredHealthy > 0
    if (!isReady && (isEnough || spec?.unhealthyPodEvictionPolicy === 'AlwaysAllow')) return { next: 'keep' }
    const disrupted = status.disruptedPods ?? {}
    if (Object.keys(disrupted).length > DISRUPTED_MAX)
      throw tooMany('Too many evictions wait to be seen.', 'DisruptedPods map too big', NOT_COUNTED_RETRY_SECONDS)
    if (disruptionsAllowed <= 0)
      throw tooMany(
        `Cannot evict pod as it would violate the pod's disruption budget.`,
        `The disruption budget ${budgetName} needs ${desiredHealthy} healthy pods and has ${currentHealthy} currently`,
      )
    budget.status = {
      ...status,
      disruptionsAllowed: disruptionsAllowed - 1,
      // So that the controller does not count it as healthy before it is seen to go.
      disruptedPods: { ...disrupted, [name]: timestamp(rest.context.world.clock.nowMs()) },
    }
    return { next: budget }
  })
}

function tooMany(message: string, cause: string, retryAfterSeconds?: number): ApiError {
  return new ApiError(
    failure(429, 'TooManyRequests', message, {
      causes: [{ reason: 'DisruptionBudget', message: cause }],
      ...(retryAfterSeconds === undefined ? {} : { retryAfterSeconds }),
    }),
  )
}
