export { busContract, type BusHarness } from './testing/bus-contract.js'
export { NatsServers, noNatsServer } from './testing/nats-servers.js'
