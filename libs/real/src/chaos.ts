/** Faults of real processes on demand: decorators of the ports, and the socket that drives them. Never imported where chaos is not asked for. */
export { Chaos, type ChaosOrder, type ChaosWord } from './chaos/chaos-socket.js'
export { FaultyClock } from './chaos/faulty-clock.js'
export { type DiskFaultCounts, FaultyDisk } from './chaos/faulty-disk.js'
