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
  /** Counted from 0 among those whose outcome is known, and among those whose is not, by the time of the call. */
  id: number
  isOpen: boolean
  operation: Operation<I, O>
  /** The open call of the same input before this one. */
  twin: Event<I, O> | undefined
  previous: Event<I, O> | undefined
  next: Event<I, O> | undefined
  match: Event<I, O> | undefined
}

const STEPS_MAX = 2_000_000

/**
 * Searches for an order that the model allows and that keeps every operation within its interval. `stepsMax` bounds the
 * search.
 *
 * What keeps it small: a pair (operations placed, state) is looked at once (Lowe). Of operations of unknown outcome, which
 * need not be placed at all, one is placed only where it changes the state; and of those with equal inputs the one that
 * was called first, since it can stand wherever a later one can.
 */
export function checkLinearizable<S, I, O>(
  history: readonly Operation<I, O>[],
  model: Model<S, I, O>,
  stepsMax = STEPS_MAX,
): Verdict<I, O> {
  const head = eventList(history)
  const openCount = history.filter((o) => o.returnedMs === undefined).length
  const placed = [new Bits(history.length - openCount), new Bits(openCount)] as const
  const bitsOf = (event: Event<I, O>) => placed[event.isOpen ? 1 : 0]
  const seen = new Set<string>()
  const stack: { event: Event<I, O>; state: S }[] = []
  let state = model.initial
  let event = head.next
  let steps = 0
  let left = history.length - openCount
  let deepest = -1
  let stuck: Operation<I, O>[] = []
  // With everything placed whose outcome is known the rest need not have happened.
  while (left > 0) {
    if (++steps > stepsMax)
      return {
        verdict: 'unknown',
        explanation: `gave up after ${stepsMax} steps with ${stack.length} of ${history.length} operations placed`,
      }
    if (event?.kind === 'call') {
      const next = isCandidate(event) ? model.step(state, event.operation.input, event.operation.output) : undefined
      const nextKey = next === undefined ? '' : model.stateKey(next)
      if (next !== undefined && !(event.isOpen && nextKey === model.stateKey(state))) {
        const bits = bitsOf(event)
        bits.set(event.id)
        const key = `${placed[0].key()} ${placed[1].key()} ${nextKey}`
        if (!seen.has(key)) {
          seen.add(key)
          stack.push({ event, state })
          state = next
          if (!event.isOpen) left--
          lift(event)
          event = head.next
          continue
        }
        bits.clear(event.id)
      }
      event = event.next
      continue
    }
    // A return whose call is not placed: something before it was placed wrongly.
    if (stack.length > deepest) {
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
    bitsOf(last.event).clear(last.event.id)
    if (!last.event.isOpen) left++
    unlift(last.event)
    event = last.event.next
  }
  return { verdict: 'ok' }

  function isCandidate(call: Event<I, O>): boolean {
    return call.twin === undefined || placed[1].has(call.twin.id)
  }
}

/** The calls that may come next: those before the first return. */
function candidates<I, O>(head: Event<I, O>): Operation<I, O>[] {
  const out: Operation<I, O>[] = []
  for (let e = head.next; e?.kind === 'call'; e = e.next) out.push(e.operation)
  return out
}

function eventList<I, O>(history: readonly Operation<I, O>[]): Event<I, O> {
  const events: { atMs: number; event: Event<I, O> }[] = []
  const make = (kind: 'call' | 'return', id: number, operation: Operation<I, O>): Event<I, O> => ({
    kind,
    id,
    isOpen: operation?.returnedMs === undefined,
    operation,
    twin: undefined,
    previous: undefined,
    next: undefined,
    match: undefined,
  })
  const counts = { open: 0, closed: 0 }
  const lastOpen = new Map<string, Event<I, O>>()
  for (const operation of [...history].sort((a, b) => a.invokedMs - b.invokedMs)) {
    const isOpen = operation.returnedMs === undefined
    const id = isOpen ? counts.open++ : counts.closed++
    const call = make('call', id, operation)
    const back = make('return', id, operation)
    call.match = back
    events.push({ atMs: operation.invokedMs, event: call })
    events.push({ atMs: operation.returnedMs ?? Number.POSITIVE_INFINITY, event: back })
    if (!isOpen) continue
    const input = JSON.stringify(operation.input)
    call.twin = lastOpen.get(input)
    lastOpen.set(input, call)
  }
  // At one instant calls come before returns: they overlap. The rest stays as it stands (the sort is stable).
  const rank = (event: Event<I, O>) => (event.kind === 'call' ? 0 : 1)
  events.sort((a, b) => (a.atMs === b.atMs ? rank(a.event) - rank(b.event) : a.atMs - b.atMs))
  const head = make('call', -1, undefined as unknown as Operation<I, O>)
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
  /** Words below are full: all early operations are placed, so keys stay short. */
  private full = 0

  constructor(size: number) {
    this.words = new Uint32Array(Math.ceil(size / 32) || 1)
  }

  set(bit: number): void {
    this.words[bit >> 5] = (this.words[bit >> 5] as number) | (1 << (bit & 31))
    while (this.words[this.full] === 0xffffffff) this.full++
  }

  clear(bit: number): void {
    this.words[bit >> 5] = (this.words[bit >> 5] as number) & ~(1 << (bit & 31))
    this.full = Math.min(this.full, bit >> 5)
  }

  has(bit: number): boolean {
    return ((this.words[bit >> 5] as number) & (1 << (bit & 31))) !== 0
  }

  key(): string {
    let end = this.words.length
    while (end > this.full && this.words[end - 1] === 0) end--
    let key = `${this.full}`
    for (let at = this.full; at < end; at++) key += `,${this.words[at]}`
    return key
  }
}
