export { busContract, type BusHarness } from './testing/bus-contract.js'
export { type DiskHarness, diskContract } from './testing/disk-contract.js'
export { NatsServers, noNatsServer } from './testing/nats-servers.js'
