/**
 * Go's text/template, as far as charts use it. What it does not know it refuses with file and line: nothing is guessed, so
 * that what is rendered here is what Helm renders. `helm-twin.ts` compares it with the real thing.
 *
 * Values: an int is a bigint, a float64 a number (what comes out of YAML or JSON), nil is undefined, maps are plain objects.
 * Source: pkg.go.dev/text/template.
 */

export type GoValue = undefined | boolean | bigint | number | string | GoValue[] | { [key: string]: GoValue } | GoStruct

/** A struct: asking it for a field that it does not have is an error, where a map gives nil. */
export class GoStruct {
  constructor(readonly fields: Readonly<Record<string, GoValue>>) {}
}

export type GoFunction = (...args: GoValue[]) => GoValue

export class TemplateError extends Error {
  override readonly name = 'TemplateError'
}

// ------------------------------------------------------------------------------------------------------------- lexing

type Token =
  | { type: 'text'; text: string; line: number }
  | { type: 'open' | 'close' | 'space' | 'pipe' | 'left' | 'right' | 'comma' | 'declare' | 'assign'; line: number }
  | { type: 'field' | 'variable' | 'word' | 'string' | 'number'; text: string; line: number }

const INSIDE: readonly [Token['type'], RegExp][] = [
  ['space', /\s+/y],
  ['declare', /:=/y],
  ['assign', /=/y],
  ['pipe', /\|/y],
  ['left', /\(/y],
  ['right', /\)/y],
  ['comma', /,/y],
  ['string', /"(?:\\.|[^"\\\n])*"|`[^`]*`/y],
  ['number', /[+-]?\d+(?:\.\d+)?(?![\w.])/y],
  ['variable', /\$\w*/y],
  ['field', /\.\w*/y],
  ['word', /[A-Za-z_]\w*/y],
]

function lex(source: string, file: string): Token[] {
  const tokens: Token[] = []
  const lineAt = (at: number) => source.slice(0, at).split('\n').length
  let at = 0
  let trimNext = false
  while (at <= source.length) {
    const open = source.indexOf('{{', at)
    let text = source.slice(at, open < 0 ? undefined : open)
    if (trimNext) text = text.replace(/^[ \t\r\n]+/, '')
    const trimsLeft = open >= 0 && /^-\s/.test(source.slice(open + 2, open + 4))
    if (trimsLeft) text = text.replace(/[ \t\r\n]+$/, '')
    if (text !== '') tokens.push({ type: 'text', text, line: lineAt(at) })
    if (open < 0) break
    const line = lineAt(open)
    at = open + 2 + (trimsLeft ? 2 : 0)
    if (source.startsWith('/*', at)) {
      const end = /\*\/( -)?\}\}/.exec(source.slice(at))
      if (!end) throw new TemplateError(`${file}:${line}: a comment that is not closed`)
      trimNext = end[1] !== undefined
      at += end.index + end[0].length
      continue
    }
    tokens.push({ type: 'open', line })
    for (;;) {
      const close = /^(\s-)?\}\}/.exec(source.slice(at, at + 4))
      if (close) {
        trimNext = close[1] !== undefined
        at += close[0].length
        tokens.push({ type: 'close', line })
        break
      }
      const found = INSIDE.map(([type, pattern]) => {
        pattern.lastIndex = at
        return { type, match: pattern.exec(source) }
      }).find(({ match }) => match !== null)
      if (!found?.match) throw new TemplateError(`${file}:${lineAt(at)}: not understood: ${source.slice(at, at + 20)}`)
      tokens.push({ type: found.type, text: found.match[0], line: lineAt(at) } as Token)
      at += found.match[0].length
    }
  }
  return tokens
}

// ------------------------------------------------------------------------------------------------------------ parsing

interface Pipeline {
  variables: string[]
  declares: boolean
  commands: Command[]
  line: number
}
type Command = Operand[]
type Operand =
  | { kind: 'literal'; value: GoValue }
  | { kind: 'nil' }
  | { kind: 'dot'; path: string[] }
  | { kind: 'variable'; name: string; path: string[] }
  | { kind: 'function'; name: string }
  | { kind: 'pipeline'; pipeline: Pipeline; path: string[] }

type Node =
  | { kind: 'text'; text: string }
  | { kind: 'action'; pipeline: Pipeline; line: number }
  | { kind: 'if' | 'with' | 'range'; pipeline: Pipeline; body: Node[]; otherwise: Node[]; line: number }
  | { kind: 'template'; name: string; argument: Pipeline | undefined; line: number }

const NOT_SUPPORTED = ['block', 'break', 'continue']

class Parser {
  private at = 0
  constructor(
    private readonly tokens: Token[],
    private readonly file: string,
    private readonly defined: Map<string, Template>,
  ) {}

  parse(): Node[] {
    const { nodes, end } = this.nodes()
    if (end !== undefined) throw this.error(`{{ ${end} }} without a beginning`)
    return nodes
  }

  private nodes(): { nodes: Node[]; end: 'end' | 'else' | undefined } {
    const nodes: Node[] = []
    for (;;) {
      const token = this.tokens[this.at]
      if (!token) return { nodes, end: undefined }
      this.at++
      if (token.type === 'text') {
        nodes.push({ kind: 'text', text: token.text })
        continue
      }
      this.skipSpace()
      const word = this.peekWord()
      const { line } = token
      if (word === 'end' || word === 'else') {
        this.at++
        if (word === 'end') this.close()
        return { nodes, end: word }
      }
      if (word !== undefined && NOT_SUPPORTED.includes(word)) throw this.error(`{{ ${word} }} is not supported`)
      if (word === 'define') {
        this.at++
        const name = this.name()
        this.close()
        const body = this.nodes()
        if (body.end !== 'end') throw this.error(`{{ define "${name}" }} without its end`)
        if (this.defined.has(name)) throw this.error(`"${name}" is defined twice`)
        this.defined.set(name, { file: this.file, nodes: body.nodes })
      } else if (word === 'template') {
        this.at++
        const name = this.name()
        this.skipSpace()
        const argument = this.peek()?.type === 'close' ? undefined : this.pipeline('close')
        this.close()
        nodes.push({ kind: 'template', name, argument, line })
      } else if (word === 'if' || word === 'with' || word === 'range') {
        this.at++
        nodes.push(this.branch(word, line))
      } else {
        const pipeline = this.pipeline('close')
        this.close()
        nodes.push({ kind: 'action', pipeline, line })
      }
    }
  }

  private branch(kind: 'if' | 'with' | 'range', line: number): Node {
    const pipeline = this.pipeline('close', kind === 'range')
    this.close()
    const body = this.nodes()
    let otherwise: Node[] = []
    if (body.end === 'else') {
      this.skipSpace()
      if (this.peekWord() === 'if') {
        if (kind !== 'if') throw this.error(`{{ else if }} in a ${kind}`)
        this.at++
        // Its end is ours too.
        otherwise = [this.branch('if', line)]
        return { kind, pipeline, body: body.nodes, otherwise, line }
      }
      this.close()
      const rest = this.nodes()
      if (rest.end !== 'end') throw this.error(`{{ ${kind} }} without its end`)
      otherwise = rest.nodes
    } else if (body.end !== 'end') throw this.error(`{{ ${kind} }} of line ${line} without its end`)
    return { kind, pipeline, body: body.nodes, otherwise, line }
  }

  private pipeline(until: 'close' | 'right', isRange = false): Pipeline {
    const line = this.peek()?.line ?? 0
    const variables: string[] = []
    let declares = false
    const start = this.at
    this.skipSpace()
    while (this.peek()?.type === 'variable') {
      variables.push((this.next() as { text: string }).text)
      this.skipSpace()
      const type = this.peek()?.type
      if (type === 'comma' && isRange && variables.length === 1) {
        this.at++
        this.skipSpace()
        continue
      }
      if (type === 'declare' || type === 'assign') {
        declares = type === 'declare'
        this.at++
        break
      }
      // No declaration: the variable was an operand.
      variables.length = 0
      this.at = start
      break
    }
    const commands: Command[] = []
    for (;;) {
      commands.push(this.command())
      this.skipSpace()
      const type = this.peek()?.type
      if (type === 'pipe') this.at++
      else if (type === until) break
      else throw this.error(`a pipeline ends with ${type ?? 'the file'}`)
    }
    return { variables, declares, commands, line }
  }

  private command(): Command {
    const operands: Operand[] = []
    for (;;) {
      this.skipSpace()
      const type = this.peek()?.type
      if (type === 'pipe' || type === 'close' || type === 'right') break
      operands.push(this.operand())
      const next = this.peek()?.type
      if (next !== 'space' && next !== 'pipe' && next !== 'close' && next !== 'right')
        throw this.error(`no blank before ${next ?? 'the end of the file'}`)
    }
    if (operands.length === 0) throw this.error('an empty command')
    return operands
  }

  private operand(): Operand {
    const token = this.next()
    switch (token?.type) {
      case 'string':
        return { kind: 'literal', value: unquote(token.text, (text) => this.error(text)) }
      case 'number':
        return { kind: 'literal', value: token.text.includes('.') ? Number(token.text) : BigInt(token.text) }
      case 'field':
        return { kind: 'dot', path: token.text === '.' ? [] : [token.text.slice(1), ...this.path()] }
      case 'variable':
        return { kind: 'variable', name: token.text, path: this.path() }
      case 'word':
        if (token.text === 'true' || token.text === 'false') return { kind: 'literal', value: token.text === 'true' }
        if (token.text === 'nil') return { kind: 'nil' }
        return { kind: 'function', name: token.text }
      case 'left': {
        const pipeline = this.pipeline('right')
        if (pipeline.variables.length > 0) throw this.error('a declaration in parentheses')
        this.at++
        return { kind: 'pipeline', pipeline, path: this.path() }
      }
      default:
        throw this.error(`${token?.type ?? 'the end of the file'} where a value should stand`)
    }
  }

  private path(): string[] {
    const path: string[] = []
    for (let token = this.peek(); token?.type === 'field'; token = this.peek()) {
      if (token.text === '.') throw this.error('a dot without a name')
      path.push(token.text.slice(1))
      this.at++
    }
    return path
  }

  private name(): string {
    this.skipSpace()
    const token = this.next()
    if (token?.type !== 'string') throw this.error('a name in quotes should stand here')
    return unquote(token.text, (text) => this.error(text))
  }

  private close(): void {
    this.skipSpace()
    if (this.next()?.type !== 'close') throw this.error('more in an action than was expected')
  }

  private peek(): Token | undefined {
    return this.tokens[this.at]
  }
  private next(): Token | undefined {
    return this.tokens[this.at++]
  }
  private peekWord(): string | undefined {
    const token = this.peek()
    return token?.type === 'word' ? token.text : undefined
  }
  private skipSpace(): void {
    while (this.peek()?.type === 'space') this.at++
  }
  private error(text: string): TemplateError {
    return new TemplateError(
      `${this.file}:${this.tokens[Math.min(this.at, this.tokens.length - 1)]?.line ?? 1}: ${text}`,
    )
  }
}

function unquote(text: string, error: (text: string) => Error): string {
  if (text.startsWith('`')) return text.slice(1, -1)
  const odd = /\\[^"\\nt]/.exec(text)
  if (odd) throw error(`the escape ${odd[0]} is not supported`)
  return JSON.parse(text) as string
}

// ---------------------------------------------------------------------------------------------------------- execution

interface Template {
  file: string
  nodes: Node[]
}

/** One assignment of a variable is seen by all scopes that hold it. */
type Scope = Map<string, { value: GoValue }>

export class TemplateSet {
  private readonly templates = new Map<string, Template>()
  private depth = 0
  constructor(private readonly functions: Readonly<Record<string, GoFunction>>) {}

  /** @throws TemplateError with file and line. */
  add(file: string, source: string): void {
    this.templates.set(file, { file, nodes: new Parser(lex(source, file), file, this.templates).parse() })
  }

  /** @throws TemplateError */
  execute(name: string, data: GoValue): string {
    const template = this.templates.get(name)
    if (!template) throw new TemplateError(`no template is called "${name}"`)
    if (++this.depth > 100) throw new TemplateError(`"${name}" includes itself without end`)
    try {
      return this.run(template, template.nodes, data, new Map([['$', { value: data }]]))
    } finally {
      this.depth--
    }
  }

  private run(template: Template, nodes: Node[], dot: GoValue, scope: Scope): string {
    let out = ''
    for (const node of nodes) {
      if (node.kind === 'text') {
        out += node.text
        continue
      }
      try {
        out += this.step(template, node, dot, scope)
      } catch (error) {
        if (error instanceof TemplateError && /^\S+:\d+: /.test(error.message)) throw error
        throw new TemplateError(`${template.file}:${node.line}: ${(error as Error).message}`, { cause: error })
      }
    }
    return out
  }

  private step(template: Template, node: Exclude<Node, { kind: 'text' }>, dot: GoValue, scope: Scope): string {
    switch (node.kind) {
      case 'action': {
        const value = this.evaluate(node.pipeline, dot, scope)
        if (node.pipeline.variables.length === 0) return print(value)
        this.bind(node.pipeline, node.pipeline.variables[0] as string, value, scope)
        return ''
      }
      case 'template':
        return this.execute(node.name, node.argument && this.evaluate(node.argument, dot, scope))
      case 'if':
      case 'with': {
        const inner: Scope = new Map(scope)
        const value = this.evaluate(node.pipeline, dot, inner)
        const variable = node.pipeline.variables[0]
        if (variable !== undefined) this.bind(node.pipeline, variable, value, inner)
        if (isTrue(value)) return this.run(template, node.body, node.kind === 'with' ? value : dot, inner)
        return this.run(template, node.otherwise, dot, inner)
      }
      case 'range': {
        const value = this.evaluate(node.pipeline, dot, scope)
        const entries = entriesOf(value)
        if (entries.length === 0) return this.run(template, node.otherwise, dot, new Map(scope))
        return entries
          .map(([key, item]) => {
            const inner: Scope = new Map(scope)
            const { variables } = node.pipeline
            if (variables.length > 0 && !node.pipeline.declares) throw new Error('range can only declare its variables')
            if (variables.length === 1) inner.set(variables[0] as string, { value: item })
            if (variables.length === 2) {
              inner.set(variables[0] as string, { value: key })
              inner.set(variables[1] as string, { value: item })
            }
            return this.run(template, node.body, item, inner)
          })
          .join('')
      }
    }
  }

  private bind(pipeline: Pipeline, name: string, value: GoValue, scope: Scope): void {
    if (pipeline.declares) scope.set(name, { value })
    else {
      const held = scope.get(name)
      if (!held) throw new Error(`${name} is assigned before it is declared`)
      held.value = value
    }
  }

  private evaluate(pipeline: Pipeline, dot: GoValue, scope: Scope): GoValue {
    let value: GoValue
    for (const [index, command] of pipeline.commands.entries())
      value = this.command(command, dot, scope, index > 0 ? [value] : [])
    return value
  }

  private command(command: Command, dot: GoValue, scope: Scope, piped: GoValue[]): GoValue {
    const [first, ...rest] = command as [Operand, ...Operand[]]
    if (first.kind !== 'function') {
      if (rest.length > 0 || piped.length > 0) throw new Error('arguments for what is no function')
      if (first.kind === 'nil') throw new Error('nil is not a command')
      return this.operand(first, dot, scope)
    }
    // These two evaluate no further than they must (since Go 1.18).
    if (first.name === 'and' || first.name === 'or') {
      const lazy = [...rest.map((operand) => () => this.operand(operand, dot, scope)), ...piped.map((p) => () => p)]
      if (lazy.length === 0) throw new Error(`${first.name} without arguments`)
      let value: GoValue
      for (const next of lazy) {
        value = next()
        if (isTrue(value) === (first.name === 'or')) return value
      }
      return value
    }
    const call = this.functions[first.name]
    if (!call) throw new Error(`function "${first.name}" is not known`)
    return call(...rest.map((operand) => this.operand(operand, dot, scope)), ...piped)
  }

  private operand(operand: Operand, dot: GoValue, scope: Scope): GoValue {
    switch (operand.kind) {
      case 'literal':
        return operand.value
      case 'nil':
        return undefined
      case 'dot':
        return follow(dot, operand.path)
      case 'variable': {
        const held = scope.get(operand.name)
        if (!held) throw new Error(`undefined variable ${operand.name}`)
        return follow(held.value, operand.path)
      }
      case 'function':
        return this.command([operand], dot, scope, [])
      case 'pipeline':
        return follow(this.evaluate(operand.pipeline, dot, scope), operand.path)
    }
  }
}

function follow(value: GoValue, path: readonly string[]): GoValue {
  let at = value
  for (const name of path) {
    if (at === undefined) throw new Error(`.${name} of nil (path .${path.join('.')})`)
    if (at instanceof GoStruct) {
      if (!Object.hasOwn(at.fields, name)) throw new Error(`there is no field .${name}`)
      at = at.fields[name]
    } else if (isMap(at)) at = Object.hasOwn(at, name) ? at[name] : undefined
    else throw new Error(`.${name} of a ${kindOf(at)}`)
  }
  return at
}

export const isMap = (value: GoValue): value is { [key: string]: GoValue } =>
  typeof value === 'object' && !Array.isArray(value) && !(value instanceof GoStruct)

export function kindOf(value: GoValue): string {
  if (value === undefined) return 'nil'
  if (typeof value === 'bigint') return 'int'
  if (typeof value === 'number') return 'float64'
  if (typeof value === 'boolean') return 'bool'
  if (typeof value === 'string') return 'string'
  return Array.isArray(value) ? 'list' : value instanceof GoStruct ? 'struct' : 'map'
}

export function isTrue(value: GoValue): boolean {
  if (Array.isArray(value)) return value.length > 0
  if (value instanceof GoStruct) return true
  if (isMap(value)) return Object.keys(value).length > 0
  return Boolean(value)
}

/** Keys of a map in order, as Go ranges over them. */
function entriesOf(value: GoValue): [GoValue, GoValue][] {
  if (value === undefined) return []
  if (Array.isArray(value)) return value.map((item, index) => [BigInt(index), item])
  if (isMap(value)) return sortedKeys(value).map((key) => [key, value[key]])
  throw new Error(`range over a ${kindOf(value)}`)
}

export const sortedKeys = (map: object) => Object.keys(map).sort((a, b) => (Buffer.from(a) < Buffer.from(b) ? -1 : 1))

/** As `fmt.Print`. Lists and maps come out of it in Go's own notation, which no chart wants: refused. */
export function print(value: GoValue): string {
  switch (typeof value) {
    case 'undefined':
      // Helm takes Go's "<no value>" out.
      return ''
    case 'string':
      return value
    case 'bigint':
    case 'boolean':
      return String(value)
    case 'number':
      return printFloat(value)
    default:
      throw new Error(`a ${kindOf(value)} can't be printed: use toYaml or toJson`)
  }
}

/** %v of a float64: strconv's shortest 'g'. Port numbers pass, a million is "1e+06": templates say `int` first. */
function printFloat(value: number): string {
  if (!Number.isFinite(value)) throw new Error(`${value} can't be printed`)
  const [digits = '', power = ''] = value.toExponential().split('e')
  const exponent = Number(power)
  if (exponent >= -4 && exponent < 6) return String(value)
  return `${digits}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`
}
