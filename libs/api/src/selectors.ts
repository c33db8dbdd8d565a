import { asList, asObject, asText, type Json } from './kube-object.js'
import { labelValue, qualifiedName } from './names.js'

/** A selector that cannot be read; the message says where. */
export class SelectorError extends Error {
  override readonly name = 'SelectorError'
}

type Labels = Readonly<Record<string, string>>

interface Requirement {
  key: string
  operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist' | 'Gt' | 'Lt'
  values: readonly string[]
}

export type LabelMatcher = (labels: Labels | undefined) => boolean

const NONE: Labels = {}
const isWhole = (text: string | undefined): text is string => text !== undefined && /^-?\d+$/.test(text)

function fits({ key, operator, values }: Requirement, labels: Labels): boolean {
  const value = Object.hasOwn(labels, key) ? labels[key] : undefined
  switch (operator) {
    case 'In':
      return value !== undefined && values.includes(value)
    case 'NotIn':
      return value === undefined || !values.includes(value)
    case 'Exists':
      return value !== undefined
    case 'DoesNotExist':
      return value === undefined
    case 'Gt':
      return isWhole(value) && Number(value) > Number(values[0])
    case 'Lt':
      return isWhole(value) && Number(value) < Number(values[0])
  }
}

const matcher =
  (requirements: readonly Requirement[]): LabelMatcher =>
  (labels) =>
    requirements.every((r) => fits(r, labels ?? NONE))

/** `a=b,c!=d,e in (f,g),h,!i` (the labelSelector query parameter). @throws SelectorError */
export function parseLabelSelector(text: string): LabelMatcher {
  return matcher(splitOutsideParentheses(text).map(parseRequirement))
}

function splitOutsideParentheses(text: string): string[] {
  const parts: string[] = []
  let depth = 0
  let part = ''
  for (const char of text) {
    if (char === '(') depth++
    if (char === ')') depth--
    if (char === ',' && depth === 0) {
      parts.push(part)
      part = ''
    } else part += char
  }
  if (depth !== 0)
    throw new SelectorError(`unable to parse requirement: unbalanced parentheses in ${JSON.stringify(text)}`)
  if (part.trim() !== '' || parts.length > 0) parts.push(part)
  return parts
}

function parseRequirement(text: string): Requirement {
  const part = text.trim()
  const set = /^(\S+)\s+(in|notin)\s*\(([^()]*)\)$/.exec(part)
  const equality = /^([^=!<>\s]+)\s*(==|=|!=|>|<)\s*([^=!<>]*)$/.exec(part)
  const existence = /^(!?)\s*([^=!<>\s(),]+)$/.exec(part)
  let requirement: Requirement
  if (set) {
    const values = (set[3] as string).split(',').map((v) => v.trim())
    requirement = { key: set[1] as string, operator: set[2] === 'in' ? 'In' : 'NotIn', values }
  } else if (equality) {
    const operators = { '=': 'In', '==': 'In', '!=': 'NotIn', '>': 'Gt', '<': 'Lt' } as const
    requirement = {
      key: equality[1] as string,
      operator: operators[equality[2] as keyof typeof operators],
      values: [(equality[3] as string).trim()],
    }
  } else if (existence)
    requirement = { key: existence[2] as string, operator: existence[1] ? 'DoesNotExist' : 'Exists', values: [] }
  else throw new SelectorError(`unable to parse requirement: found ${JSON.stringify(part)}`)
  const wrongKey = qualifiedName(requirement.key)
  if (wrongKey)
    throw new SelectorError(
      `unable to parse requirement: <nil>: Invalid value: ${JSON.stringify(requirement.key)}: ${wrongKey}`,
    )
  if (requirement.operator === 'Gt' || requirement.operator === 'Lt') {
    if (!isWhole(requirement.values[0]))
      throw new SelectorError(
        `unable to parse requirement: values[0]: for 'Gt', 'Lt' operators, the value must be an integer`,
      )
  } else
    for (const value of requirement.values) {
      const wrong = labelValue(value)
      if (wrong)
        throw new SelectorError(
          `unable to parse requirement: values[0][${requirement.key}]: Invalid value: ${JSON.stringify(value)}: ${wrong}`,
        )
    }
  return requirement
}

/** A LabelSelector object. Missing: nothing fits; empty: everything does. Objects are validated before: others fit nothing. */
export function labelSelectorMatcher(selector: unknown): LabelMatcher {
  if (selector === undefined || selector === null) return () => false
  return matcher(requirementsOf(asObject(selector)))
}

function requirementsOf(selector: Json): Requirement[] {
  return [
    ...Object.entries(asObject(selector['matchLabels'])).map(([key, value]) => ({
      key,
      operator: 'In' as const,
      values: [asText(value)],
    })),
    ...asList(selector['matchExpressions']).map((e) => ({
      key: asText(e['key']),
      operator: asText(e['operator']) as Requirement['operator'],
      values: Array.isArray(e['values']) ? e['values'].map(String) : [],
    })),
  ]
}

export interface FieldRequirement {
  path: string
  equal: boolean
  value: string
}

/** `a.b=c,d!=e` (the fieldSelector query parameter). @throws SelectorError */
export function parseFieldSelector(text: string): FieldRequirement[] {
  return text
    .split(',')
    .filter((part) => part !== '')
    .map((part) => {
      const match = /^([^=!]+)(==|=|!=)(.*)$/.exec(part)
      if (!match) throw new SelectorError(`invalid selector: '${text}'; can't understand '${part}'`)
      return { path: (match[1] as string).trim(), equal: match[2] !== '!=', value: (match[3] as string).trim() }
    })
}
