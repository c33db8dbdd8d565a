import { MemoryStateEngine, MemoryStorage } from './memory-engine.js'
import { stateEngineContract } from './testing/state-engine-contract.js'

stateEngineContract('memory', () => {
  const storage = new MemoryStorage()
  return Promise.resolve({
    open: () => Promise.resolve(new MemoryStateEngine(storage)),
    crash: () => Promise.resolve(),
    end: () => Promise.resolve(),
  })
})
