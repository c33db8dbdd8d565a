export { busContract, type BusHarness } from './testing/bus-contract.js'
