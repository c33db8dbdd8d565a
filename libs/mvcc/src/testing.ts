export { mvccContract, mvccProperty } from './testing/mvcc-contract.js'
export { type EngineHarness, stateEngineContract } from './testing/state-engine-contract.js'
export { NaiveStore } from './testing/naive-store.js'
