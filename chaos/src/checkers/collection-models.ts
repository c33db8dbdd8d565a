import type { Model } from './linearizability.js'

/** A list that clients append to by compare-and-swap. Items are unique. */
export type ListInput = { type: 'read' } | { type: 'append'; item: string }
export type ListOutput = { type: 'list'; items: string } | { type: 'appended' }

export const listModel: Model<string, ListInput, ListOutput> = {
  initial: '',
  step(state, input, output) {
    if (input.type === 'read')
      return output === undefined || (output.type === 'list' && output.items === state) ? state : undefined
    return state === '' ? input.item : `${state},${input.item}`
  },
  stateKey: (state) => state,
}

/** A set of elements, each a key of its own; read as one range. */
export type SetInput = { type: 'read' } | { type: 'add'; element: string } | { type: 'remove'; element: string }
/** `changed`: it was not there (was there) before. */
export type SetOutput = { type: 'set'; elements: string } | { type: 'changed'; changed: boolean }

export const setModel: Model<string, SetInput, SetOutput> = {
  initial: '',
  step(state, input, output) {
    if (input.type === 'read')
      return output === undefined || (output.type === 'set' && output.elements === state) ? state : undefined
    const elements = state === '' ? [] : state.split(',')
    const present = elements.includes(input.element)
    const changes = input.type === 'add' ? !present : present
    if (output?.type === 'changed' && output.changed !== changes) return undefined
    if (!changes) return state
    const after = present ? elements.filter((e) => e !== input.element) : [...elements, input.element]
    return after.sort().join(',')
  },
  stateKey: (state) => state,
}
