import { forbidden, invalid, required, type StatusCause } from '../causes.js'
import { asList, asNumber, asObject, asText, isObject, type Json } from '../kube-object.js'
import { dns1123Label, labelValue, qualifiedName } from '../names.js'
import { labelCauses } from './define.js'

const REQUIRED = 'requiredDuringSchedulingIgnoredDuringExecution'
const PREFERRED = 'preferredDuringSchedulingIgnoredDuringExecution'
const WHOLE = /^-?\d+$/

/** Of a pod's spec: what the scheduler reads must be readable. */
export function validateAffinity(affinity: Json, at: string): StatusCause[] {
  const causes: StatusCause[] = []
  const { nodeAffinity, podAffinity, podAntiAffinity } = affinity
  if (isObject(nodeAffinity)) causes.push(...validateNodeAffinity(nodeAffinity, `${at}.nodeAffinity`))
  if (isObject(podAffinity)) causes.push(...validatePodAffinity(podAffinity, `${at}.podAffinity`))
  if (isObject(podAntiAffinity)) causes.push(...validatePodAffinity(podAntiAffinity, `${at}.podAntiAffinity`))
  return causes
}

function validateNodeAffinity(affinity: Json, at: string): StatusCause[] {
  const causes: StatusCause[] = []
  const needed = affinity[REQUIRED]
  if (isObject(needed)) {
    const terms = asList(needed['nodeSelectorTerms'])
    const termsAt = `${at}.${REQUIRED}.nodeSelectorTerms`
    if (terms.length === 0) causes.push(required(termsAt, 'must have at least one node selector term'))
    for (const [i, term] of terms.entries()) causes.push(...validateNodeTerm(term, `${termsAt}[${i}]`))
  }
  for (const [i, term] of asList(affinity[PREFERRED]).entries()) {
    const termAt = `${at}.${PREFERRED}[${i}]`
    causes.push(
      ...validateWeight(term, termAt),
      ...validateNodeTerm(asObject(term['preference']), `${termAt}.preference`),
    )
  }
  return causes
}

function validateNodeTerm(term: Json, at: string): StatusCause[] {
  const causes: StatusCause[] = []
  for (const [i, expression] of asList(term['matchExpressions']).entries()) {
    const one = `${at}.matchExpressions[${i}]`
    const key = asText(expression['key'])
    const wrong = qualifiedName(key)
    if (wrong) causes.push(invalid(`${one}.key`, key, wrong))
    causes.push(...validateNodeOperator(expression, one))
  }
  for (const [i, expression] of asList(term['matchFields']).entries()) {
    const one = `${at}.matchFields[${i}]`
    const values = Array.isArray(expression['values']) ? expression['values'].length : 0
    if (!['In', 'NotIn'].includes(asText(expression['operator'])))
      causes.push(invalid(`${one}.operator`, expression['operator'] ?? '', 'not a valid selector operator'))
    else if (values !== 1)
      causes.push(
        required(`${one}.values`, "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"),
      )
    if (expression['key'] !== 'metadata.name')
      causes.push(invalid(`${one}.key`, expression['key'] ?? '', 'not a valid field selector key'))
  }
  return causes
}

function validateNodeOperator(expression: Json, at: string): StatusCause[] {
  const values = Array.isArray(expression['values']) ? expression['values'].map(String) : []
  switch (expression['operator']) {
    case 'In':
    case 'NotIn':
      if (values.length === 0) return [required(`${at}.values`, "must be specified when `operator` is 'In' or 'NotIn'")]
      return values.flatMap((value, i) => {
        const wrong = labelValue(value)
        return wrong ? [invalid(`${at}.values[${i}]`, value, wrong)] : []
      })
    case 'Exists':
    case 'DoesNotExist':
      if (values.length === 0) return []
      return [forbidden(`${at}.values`, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")]
    case 'Gt':
    case 'Lt':
      if (values.length !== 1)
        return [required(`${at}.values`, "must be specified single value when `operator` is 'Lt' or 'Gt'")]
      return WHOLE.test(values[0] as string)
        ? []
        : [invalid(`${at}.values[0]`, values[0], "for 'Gt', 'Lt' operators, the value must be an integer")]
    default:
      return [invalid(`${at}.operator`, expression['operator'] ?? '', 'not a valid selector operator')]
  }
}

function validatePodAffinity(affinity: Json, at: string): StatusCause[] {
  const causes: StatusCause[] = []
  for (const [i, term] of asList(affinity[REQUIRED]).entries())
    causes.push(...validatePodTerm(term, `${at}.${REQUIRED}[${i}]`))
  for (const [i, term] of asList(affinity[PREFERRED]).entries()) {
    const termAt = `${at}.${PREFERRED}[${i}]`
    causes.push(...validateWeight(term, termAt))
    causes.push(...validatePodTerm(asObject(term['podAffinityTerm']), `${termAt}.podAffinityTerm`))
  }
  return causes
}

function validatePodTerm(term: Json, at: string): StatusCause[] {
  const causes: StatusCause[] = []
  for (const field of ['labelSelector', 'namespaceSelector'])
    if (isObject(term[field])) causes.push(...validateLabelSelector(term[field], `${at}.${field}`))
  const namespaces = Array.isArray(term['namespaces']) ? term['namespaces'].map(String) : []
  for (const [i, namespace] of namespaces.entries()) {
    const wrong = dns1123Label(namespace)
    if (wrong) causes.push(invalid(`${at}.namespaces[${i}]`, namespace, wrong))
  }
  const key = asText(term['topologyKey'])
  if (!key) return [...causes, required(`${at}.topologyKey`, 'can not be empty')]
  const wrong = qualifiedName(key)
  return wrong ? [...causes, invalid(`${at}.topologyKey`, key, wrong)] : causes
}

function validateWeight(term: Json, at: string): StatusCause[] {
  const weight = asNumber(term['weight']) ?? 0
  return weight >= 1 && weight <= 100 ? [] : [invalid(`${at}.weight`, weight, 'must be in the range 1-100')]
}

/** A LabelSelector object. */
export function validateLabelSelector(selector: Json, at: string): StatusCause[] {
  const causes = Object.entries(asObject(selector['matchLabels'])).flatMap(([key, value]) =>
    labelCauses(key, value, `${at}.matchLabels`),
  )
  for (const [i, expression] of asList(selector['matchExpressions']).entries()) {
    const one = `${at}.matchExpressions[${i}]`
    const operator = asText(expression['operator'])
    const values = Array.isArray(expression['values']) ? expression['values'].map(String) : []
    if (operator === 'In' || operator === 'NotIn') {
      if (values.length === 0)
        causes.push(required(`${one}.values`, "must be specified when `operator` is 'In' or 'NotIn'"))
    } else if (operator === 'Exists' || operator === 'DoesNotExist') {
      if (values.length > 0)
        causes.push(forbidden(`${one}.values`, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
    } else causes.push(notValidOperator(`${one}.operator`, operator))
    const key = asText(expression['key'])
    const wrong = qualifiedName(key)
    if (wrong) causes.push(invalid(`${one}.key`, key, wrong))
    for (const [j, value] of values.entries()) {
      const wrongValue = labelValue(value)
      if (wrongValue) causes.push(invalid(`${one}.values[${j}]`, value, wrongValue))
    }
  }
  return causes
}

const notValidOperator = (at: string, operator: string) => invalid(at, operator, 'not a valid selector operator')
