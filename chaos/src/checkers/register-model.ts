import type { Model, Operation } from './linearizability.js'

/** Operations on one key of the store. Revisions are mod revisions; 0: the key is not there. */
export type RegisterInput =
  | { type: 'put'; value: string }
  | { type: 'get' }
  | { type: 'delete' }
  /** Writes only if the key's mod revision is this one. */
  | { type: 'compareAndSet'; expected: number; value: string }

export type RegisterOutput =
  | { type: 'written'; revision: number }
  | { type: 'read'; value: string | undefined; revision: number }
  /** The comparison did not hold; there was nothing to delete. */
  | { type: 'unchanged' }

interface State {
  value: string | undefined
  revision: number
  /** The highest revision seen: the store's counter never goes back. */
  highest: number
}

/**
 * One key of an etcd-like store. That every write says its revision keeps the search small: the order of acknowledged
 * writes follows from it. A write whose outcome is unknown has a revision that a later read may tell.
 */
export const registerModel: Model<State, RegisterInput, RegisterOutput> = {
  initial: { value: undefined, revision: 0, highest: 0 },
  step(state, input, output) {
    switch (input.type) {
      case 'get':
        if (output === undefined) return state
        if (output.type !== 'read' || output.value !== state.value) return undefined
        if (state.revision >= 0 && output.revision !== state.revision) return undefined
        // An unknown write's revision shows by this read; the store's counter had passed all that it had told before.
        if (state.revision < 0 && output.revision <= state.highest) return undefined
        return { ...state, revision: output.revision, highest: Math.max(state.highest, output.revision) }
      case 'put':
        return write(state, input.value, output)
      case 'delete':
        if (output?.type === 'unchanged') return state.value === undefined ? state : undefined
        // What is not there can't be deleted: the store says `unchanged` and counts no revision.
        if (state.value === undefined) return output === undefined ? state : undefined
        return write(state, undefined, output)
      case 'compareAndSet': {
        const holds = state.revision === input.expected
        if (output === undefined) return holds || state.revision < 0 ? write(state, input.value, undefined) : state
        if (output.type === 'unchanged') return holds ? undefined : state
        return holds || state.revision < 0 ? write(state, input.value, output) : undefined
      }
    }
  },
  stateKey: (state) => `${state.revision} ${state.value ?? '-'}`,
}

/** Revision of a key whose last write's outcome, and so its revision, is not known. */
const UNKNOWN_REVISION = -1

function write(state: State, value: string | undefined, output: RegisterOutput | undefined): State | undefined {
  if (output === undefined)
    return { value, revision: value === undefined ? 0 : UNKNOWN_REVISION, highest: state.highest }
  if (output.type !== 'written' || output.revision <= state.highest) return undefined
  return { value, revision: value === undefined ? 0 : output.revision, highest: output.revision }
}

/**
 * The same history for the checker, with less to try: the value of a write of unknown outcome that nobody ever read is as
 * good as any other, so all of them write the same one.
 */
export function simplifyRegisterHistory(
  history: readonly Operation<RegisterInput, RegisterOutput>[],
): Operation<RegisterInput, RegisterOutput>[] {
  const read = new Set<string | undefined>()
  for (const { output } of history) if (output?.type === 'read') read.add(output.value)
  return history.map((operation) => {
    const { input } = operation
    if (operation.returnedMs !== undefined || !('value' in input) || read.has(input.value)) return operation
    return { ...operation, input: { ...input, value: UNREAD } }
  })
}

const UNREAD = '(a value that nobody read)'
