export { FakeApiClient, type FakeCall } from './testing/fake-api-client.js'
export {
  type LogLine,
  ManualClock,
  type ManualWorld,
  manualWorld,
  MemoryBroker,
  MemoryBus,
  MemoryLog,
  SeededRandom,
} from './testing/manual-world.js'
