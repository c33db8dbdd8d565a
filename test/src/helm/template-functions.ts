/**
 * The functions of charts: Go's own, sprig's and Helm's, as far as ours uses them. Arguments of a kind that Go would refuse
 * or convert in an unexpected way are refused. Sources: pkg.go.dev/text/template, masterminds.github.io/sprig, helm.sh/docs.
 */
import { createHash } from 'node:crypto'
import { parse, stringify } from 'yaml'
import {
  type GoFunction,
  type GoValue,
  isMap,
  isTrue,
  kindOf,
  print,
  sortedKeys,
  type TemplateSet,
} from './go-template.js'

export interface HelmWorld {
  /** What is on the cluster: `kind/namespace/name` → object. `helm template` and `--dry-run` see nothing. */
  existing: Readonly<Record<string, GoValue>>
}

type Map = { [key: string]: GoValue }

const refuse = (name: string, value: GoValue): never => {
  throw new Error(`${name} does not take a ${kindOf(value)}`)
}
const text = (name: string, value: GoValue): string => (typeof value === 'string' ? value : refuse(name, value))
const map = (name: string, value: GoValue): Map => (isMap(value) ? value : refuse(name, value))
const listOf = (name: string, value: GoValue): GoValue[] => (Array.isArray(value) ? value : refuse(name, value))
/** sprig converts what looks like a number. */
const integer = (name: string, value: GoValue): bigint => {
  if (typeof value === 'bigint') return value
  if (typeof value === 'number') return BigInt(Math.trunc(value))
  if (typeof value === 'string' && /^\d+$/.test(value)) return BigInt(value)
  return refuse(name, value)
}

/** Go compares basic values of one kind only. */
function equal(a: GoValue, b: GoValue): boolean {
  if (a === undefined || b === undefined) return a === b
  if (kindOf(a) !== kindOf(b)) throw new Error(`incompatible types for comparison: ${kindOf(a)} and ${kindOf(b)}`)
  if (typeof a === 'object') throw new Error(`a ${kindOf(a)} can't be compared`)
  return a === b
}

function less(a: GoValue, b: GoValue): boolean {
  if (kindOf(a) !== kindOf(b) || !['int', 'float64', 'string'].includes(kindOf(a)))
    throw new Error(`incompatible types for comparison: ${kindOf(a)} and ${kindOf(b)}`)
  return (a as number) < (b as number)
}

function printf(format: GoValue, ...args: GoValue[]): string {
  let at = 0
  const out = text('printf', format).replace(/%(.)/g, (_, verb: string) => {
    if (verb === '%') return '%'
    if (at >= args.length) throw new Error(`printf: too few arguments for ${print(format)}`)
    const value = args[at++]
    if (verb === 's' && typeof value === 'string') return value
    if (verb === 'd' && typeof value === 'bigint') return String(value)
    if (verb === 'q' && typeof value === 'string') return JSON.stringify(value)
    if (verb === 'v') return print(value)
    throw new Error(`printf: %${verb} of a ${kindOf(value)}`)
  })
  if (at < args.length) throw new Error(`printf: too many arguments for ${print(format)}`)
  return out
}

/** As encoding/json: keys in order, and no character that means something in HTML. */
function toJson(value: GoValue, indent?: number): string {
  const plain = (v: GoValue): unknown => {
    if (v === undefined) return null
    if (typeof v === 'bigint') return Number(v)
    if (Array.isArray(v)) return v.map(plain)
    if (isMap(v)) return Object.fromEntries(sortedKeys(v).map((key) => [key, plain(v[key])]))
    if (typeof v === 'object') return refuse('toJson', v)
    return v
  }
  return JSON.stringify(plain(value), null, indent).replace(
    /[<>&\u2028\u2029]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** What YAML and JSON give is what Go's decoder gives: every number a float64, null is nil. */
export function fromPlain(value: unknown): GoValue {
  if (value === null || value === undefined) return undefined
  if (Array.isArray(value)) return value.map(fromPlain)
  if (typeof value === 'object')
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fromPlain(item)]))
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value
  throw new Error(`a ${typeof value} is no value of YAML`)
}

function indentText(spaces: GoValue, value: GoValue): string {
  const pad = ' '.repeat(Number(integer('indent', spaces)))
  return pad + text('indent', value).replaceAll('\n', `\n${pad}`)
}

const isEmpty = (value: GoValue) => !isTrue(value)

/** These take any number of arguments; all others as many as they name. */
const VARIADIC = ['eq', 'printf', 'quote', 'add', 'mul', 'list', 'dict']

export function templateFunctions(world: HelmWorld, templates: () => TemplateSet): Record<string, GoFunction> {
  const functions = allFunctions(world, templates)
  for (const [name, call] of Object.entries(functions))
    if (!VARIADIC.includes(name))
      functions[name] = (...args) => {
        if (args.length !== call.length) throw new Error(`${name} takes ${call.length} arguments, not ${args.length}`)
        return call(...args)
      }
  return functions
}

function allFunctions(world: HelmWorld, templates: () => TemplateSet): Record<string, GoFunction> {
  return {
    // text/template
    eq: (first, ...rest) => {
      if (rest.length === 0) throw new Error('eq with one argument')
      return rest.some((value) => equal(first, value))
    },
    ne: (a, b) => !equal(a, b),
    lt: (a, b) => less(a, b),
    le: (a, b) => !less(b, a),
    gt: (a, b) => less(b, a),
    ge: (a, b) => !less(a, b),
    not: (value) => !isTrue(value),
    len: (value) => {
      if (typeof value === 'string') return BigInt(Buffer.byteLength(value))
      if (Array.isArray(value)) return BigInt(value.length)
      return BigInt(Object.keys(map('len', value)).length)
    },
    printf,
    // Helm
    include: (name, data) => templates().execute(text('include', name), data),
    required: (message, value) => {
      if (value === undefined || value === '') throw new Error(text('required', message))
      return value
    },
    fail: (message) => {
      throw new Error(text('fail', message))
    },
    lookup: (apiVersion, kind, namespace, name) => {
      const key = [kind, namespace, name].map((part) => text('lookup', part)).join('/')
      const found = world.existing[key]
      if (found !== undefined && map('lookup', found)['apiVersion'] !== apiVersion) return {}
      return found ?? {}
    },
    toYaml: (value) => {
      const plain = JSON.parse(toJson(value)) as unknown
      // Go quotes some strings with the other kind of quotation mark; all else is the same to the letter.
      return stringify(plain, { version: '1.1', sortMapEntries: true, lineWidth: 0, indentSeq: false }).replace(
        /\n$/,
        '',
      )
    },
    fromYaml: (value) => fromPlain(parse(text('fromYaml', value), { version: '1.1' })),
    toJson: (value) => toJson(value),
    fromJson: (value) => fromPlain(JSON.parse(text('fromJson', value))),
    // sprig
    toPrettyJson: (value) => toJson(value, 2),
    default: (fallback, value) => (isEmpty(value) ? fallback : value),
    ternary: (yes, no, condition) => {
      if (typeof condition !== 'boolean') return refuse('ternary', condition)
      return condition ? yes : no
    },
    quote: (...values) =>
      values
        .filter((value) => value !== undefined)
        .map((value) => JSON.stringify(print(value)))
        .join(' '),
    replace: (from, to, value) => text('replace', value).replaceAll(text('replace', from), text('replace', to)),
    join: (separator, list) =>
      listOf('join', list)
        .map((item) => print(item))
        .join(text('join', separator)),
    indent: indentText,
    nindent: (spaces, value) => `\n${indentText(spaces, value)}`,
    // RE2 knows less than JavaScript's expressions and means the same by what both know.
    regexMatch: (pattern, value) => new RegExp(text('regexMatch', pattern)).test(text('regexMatch', value)),
    sha256sum: (value) => createHash('sha256').update(text('sha256sum', value)).digest('hex'),
    int: (value) => integer('int', value),
    add: (...values) => values.reduce<bigint>((sum, value) => sum + integer('add', value), 0n),
    mul: (...values) => values.reduce<bigint>((product, value) => product * integer('mul', value), 1n),
    div: (a, b) => integer('div', a) / integer('div', b),
    mod: (a, b) => integer('mod', a) % integer('mod', b),
    until: (count) => Array.from({ length: Number(integer('until', count)) }, (_, i) => BigInt(i)),
    list: (...values) => values,
    append: (list, value) => [...listOf('append', list), value],
    uniq: (list) => listOf('uniq', list).filter((item, index, all) => all.indexOf(item) === index),
    dict: (...values) => {
      if (values.length % 2 === 1) throw new Error('dict with a key without a value')
      const made: Map = {}
      for (let i = 0; i < values.length; i += 2) made[print(values[i])] = values[i + 1]
      return made
    },
    set: (target, key, value) => {
      map('set', target)[text('set', key)] = value
      return target
    },
    get: (source, key) => map('get', source)[text('get', key)] ?? '',
    hasKey: (source, key) => Object.hasOwn(map('hasKey', source), text('hasKey', key)),
  }
}
