import type { Model, Operation } from './linearizability.js'

/** Operations on one object of the API. `expected`: the resourceVersion that an update was made from. */
export type ObjectInput =
  | { type: 'create'; value: string }
  | { type: 'update'; value: string; expected: number }
  | { type: 'patch'; value: string }
  | { type: 'delete' }
  | { type: 'get' }

export type ObjectOutput =
  /** `revision` missing: a delete, which tells none. */
  | { type: 'done'; revision?: number }
  | { type: 'object'; value: string; revision: number }
  | { type: 'AlreadyExists' | 'NotFound' | 'Conflict' }

interface State {
  /** Undefined: there is no such object. */
  value: string | undefined
  /** 0: none; UNKNOWN: of a write whose answer was lost. */
  revision: number
  /** The highest revision that anybody was told: the store's counter never goes back. */
  highest: number
}

const UNKNOWN = -1

/** One object of the Kubernetes API: what creates, updates, patches, deletes and consistent reads may be told. */
export const objectModel: Model<State, ObjectInput, ObjectOutput> = {
  initial: { value: undefined, revision: 0, highest: 0 },
  step(state, input, output) {
    const exists = state.value !== undefined
    if (output?.type === 'NotFound') return exists || input.type === 'create' ? undefined : state
    switch (input.type) {
      case 'get':
        if (output === undefined) return state
        if (output.type !== 'object' || output.value !== state.value) return undefined
        if (state.revision !== UNKNOWN) return output.revision === state.revision ? state : undefined
        // An unknown write's revision shows by this read; the counter had passed all that was told before.
        return output.revision > state.highest
          ? { ...state, revision: output.revision, highest: output.revision }
          : undefined
      case 'create':
        if (output?.type === 'AlreadyExists') return exists ? state : undefined
        if (exists) return output === undefined ? state : undefined
        return written(state, input.value, output)
      case 'update': {
        const mayHold = exists && (state.revision === input.expected || state.revision === UNKNOWN)
        const mayDiffer = exists && state.revision !== input.expected
        if (output?.type === 'Conflict') return mayDiffer ? state : undefined
        if (!mayHold) return output === undefined ? state : undefined
        return written(state, input.value, output)
      }
      case 'patch':
        if (!exists) return output === undefined ? state : undefined
        return written(state, input.value, output)
      case 'delete':
        if (!exists) return output === undefined ? state : undefined
        if (output !== undefined && output.type !== 'done') return undefined
        return { value: undefined, revision: 0, highest: state.highest }
    }
  },
  stateKey: (state) => `${state.revision} ${state.value ?? '-'}`,
}

function written(state: State, value: string, output: ObjectOutput | undefined): State | undefined {
  if (output === undefined) return { value, revision: UNKNOWN, highest: state.highest }
  if (output.type !== 'done' || output.revision === undefined || output.revision <= state.highest) return undefined
  return { value, revision: output.revision, highest: output.revision }
}

/** What an operation was told must have been written by one of these. @see shortest */
export function objectNeeds(
  operation: Operation<ObjectInput, ObjectOutput>,
  history: readonly Operation<ObjectInput, ObjectOutput>[],
): Operation<ObjectInput, ObjectOutput>[] {
  const { input, output } = operation
  const writes = history.filter((o) => o.input.type !== 'get' && o !== operation)
  if (output?.type === 'object') return writes.filter((o) => 'value' in o.input && o.input.value === output.value)
  if (output === undefined) return []
  if (output.type !== 'done') return writes
  if (input.type === 'update')
    return writes.filter((o) => o.output?.type === 'done' && o.output.revision === input.expected)
  // A create needs what deleted the object before it, a patch and a delete what made it.
  return input.type === 'create'
    ? writes.filter((o) => o.input.type === 'delete')
    : writes.filter((o) => 'value' in o.input)
}
