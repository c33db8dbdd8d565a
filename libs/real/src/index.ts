export { LmdbStateEngine } from './lmdb-engine.js'
