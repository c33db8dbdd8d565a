export type { PlantedBug, StoreHandle, StoreOptions, StoreWorld } from './options.js'
export { startStore } from './start-store.js'
