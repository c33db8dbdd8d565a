/** For programs that act on the machines of `capstan up` from outside, as the chaos harness does: what the commands are made of. */
export { type ChaosFile, chaosSocket } from './chaos-door.js'
export { cgroupProcesses, joinCgroup } from './cgroup.js'
export { guardName } from './guard-child.js'
export { provideImages } from './images.js'
export { readLayout } from './layout-file.js'
export { type ClusterLayout, IDENTITY_TIMES, namesOf, Places, RECOVERY_TIMES } from './layout.js'
export {
  killMachine,
  machinePid,
  pauseMachine,
  resumeMachine,
  runningProcesses,
  startMachine,
  stopMachine,
} from './machines.js'
export { processesNaming } from './network.js'
export { provideHost } from './packages.js'
export { readAdmin } from './pki.js'
export { accepts, liveProcess, startTicksOf, waitFor } from './process-file.js'
export { stop, up, type UpOptions } from './up.js'
export { asAdmin } from './vm/admin-access.js'
export { realWorld } from './worlds.js'
