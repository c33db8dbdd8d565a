export { type PlantedBug, PLANTED_BUGS, type StoreHandle, type StoreOptions, type StoreWorld } from './options.js'
export { startStore } from './start-store.js'
