export type * from './harness/types.js'
