export { judge, PROMISES, undesiredOf } from './judge.js'
export { recoveries, type Undesired } from './recoveries.js'
