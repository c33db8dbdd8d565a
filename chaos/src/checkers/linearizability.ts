/** Is there one legal order of operations that overlap in time? (Herlihy & Wing; Wing & Gong's search with Lowe's caching.) */

export interface Operation<I, O> {
  /** Who called: for explanations only. */
  client: string
  input: I
  /** Missing: the caller never learnt what came of it; it may have taken effect at any later time, or never. */
  output?: O
  invokedMs: number
  /** Missing with `output`. */
  returnedMs?: number
}

/** What one object does with operations, one at a time. */
export interface Model<S, I, O> {
  initial: S
  /** The state afterwards, if `output` (undefined: whatever it was) is legal in this state; else undefined. */
  step(state: S, input: I, output: O | undefined): S | undefined
  /** Equal states have equal keys. */
  stateKey(state: S): string
}

export type Verdict<I, O> =
  | { verdict: 'ok' }
  /** `stuck`: the operations of which none can come next, whatever the order before. */
  | { verdict: 'illegal'; explanation: string; stuck: Operation<I, O>[] }
  /** The search was given up: no pass. */
  | { verdict: 'unknown'; explanation: string }

interface Event<I, O> {
  kind: 'call' | 'return'
  id: number
  operation: Operation<I, O>
  previous: Event<I, O> | undefined
  next: Event<I, O> | undefined
  match: Event<I, O> | undefined
}

const STEPS_MAX = 2_000_000

/** `stepsMax` bounds the search. */
export function checkLinearizable<S, I, O>(
  history: readonly Operation<I, O>[],
  model: Model<S, I, O>,
  stepsMax = STEPS_MAX,
): Verdict<I, O> {
  const head = eventList(history)
  const placed = new Bits(history.length)
  const seen = new Set<string>()
  const stack: { event: Event<I, O>; state: S }[] = []
  let state = model.initial
  let event = head.next
  let steps = 0
  let deepest = 0
  let stuck: Operation<I, O>[] = []
  while (head.next) {
    if (++steps > stepsMax)
      return {
        verdict: 'unknown',
        explanation: `gave up after ${stepsMax} steps with ${stack.length} of ${history.length} operations placed`,
      }
    if (event?.kind === 'call') {
      const next = model.step(state, event.operation.input, event.operation.output)
      if (next !== undefined) {
        placed.set(event.id)
        const key = `${placed.key()} ${model.stateKey(next)}`
        if (!seen.has(key)) {
          seen.add(key)
          stack.push({ event, state })
          state = next
          lift(event)
          event = head.next
          continue
        }
        placed.clear(event.id)
      }
      event = event.next
      continue
    }
    // A return whose call is not placed: something before it was placed wrongly. Only open calls left: all is legal.
    if (event === undefined || (event.kind === 'return' && event.operation.output === undefined && onlyOpen(head))) {
      if (onlyOpen(head)) return { verdict: 'ok' }
    }
    if (stack.length >= deepest) {
      deepest = stack.length
      stuck = candidates(head)
    }
    const last = stack.pop()
    if (!last) {
      const names = stuck.map(
        (o) =>
          `${o.client}: ${JSON.stringify(o.input)} -> ${JSON.stringify(o.output)} [${o.invokedMs}..${o.returnedMs ?? '?'}]`,
      )
      return {
        verdict: 'illegal',
        explanation: `after ${deepest} operations none of these can come next:\n  ${names.join('\n  ')}`,
        stuck,
      }
    }
    state = last.state
    placed.clear(last.event.id)
    unlift(last.event)
    event = last.event.next
  }
  return { verdict: 'ok' }
}

/** Nothing is left but operations whose outcome nobody knows: they need not have happened. */
function onlyOpen<I, O>(head: Event<I, O>): boolean {
  for (let e = head.next; e; e = e.next) if (e.operation.returnedMs !== undefined) return false
  return true
}

/** The calls that may come next: those before the first return. */
function candidates<I, O>(head: Event<I, O>): Operation<I, O>[] {
  const out: Operation<I, O>[] = []
  for (let e = head.next; e?.kind === 'call'; e = e.next) out.push(e.operation)
  return out
}

function eventList<I, O>(history: readonly Operation<I, O>[]): Event<I, O> {
  const events: { atMs: number; order: number; event: Event<I, O> }[] = []
  for (const [id, operation] of history.entries()) {
    const make = (kind: 'call' | 'return'): Event<I, O> => ({
      kind,
      id,
      operation,
      previous: undefined,
      next: undefined,
      match: undefined,
    })
    const call = make('call')
    const back = make('return')
    call.match = back
    events.push({ atMs: operation.invokedMs, order: 0, event: call })
    events.push({ atMs: operation.returnedMs ?? Number.POSITIVE_INFINITY, order: 1, event: back })
  }
  // At one instant calls come before returns: they overlap.
  events.sort((a, b) => (a.atMs === b.atMs ? a.order - b.order || a.event.id - b.event.id : a.atMs - b.atMs))
  const head: Event<I, O> = {
    kind: 'call',
    id: -1,
    operation: undefined as never,
    previous: undefined,
    next: undefined,
    match: undefined,
  }
  let last = head
  for (const { event } of events) {
    last.next = event
    event.previous = last
    last = event
  }
  return head
}

/** Takes a call and its return out of the list. */
function lift<I, O>(call: Event<I, O>): void {
  for (const event of [call, call.match as Event<I, O>]) {
    if (event.previous) event.previous.next = event.next
    if (event.next) event.next.previous = event.previous
  }
}

/** Undoes `lift`, in the reverse order. */
function unlift<I, O>(call: Event<I, O>): void {
  for (const event of [call.match as Event<I, O>, call]) {
    if (event.previous) event.previous.next = event
    if (event.next) event.next.previous = event
  }
}

class Bits {
  private readonly words: Uint32Array
  constructor(size: number) {
    this.words = new Uint32Array(Math.ceil(size / 32) || 1)
  }
  set(bit: number): void {
    this.words[bit >> 5] = (this.words[bit >> 5] as number) | (1 << (bit & 31))
  }
  clear(bit: number): void {
    this.words[bit >> 5] = (this.words[bit >> 5] as number) & ~(1 << (bit & 31))
  }
  key(): string {
    return this.words.join(',')
  }
}
