export { drawSchedule, fixed, readSchedule } from './harness/draw-schedule.js'
export { faultNamed, FAULTS } from './harness/faults.js'
export { type RunEvents, type RunOptions, runScenario } from './harness/run.js'
export { scenarioNamed, SCENARIOS } from './harness/scenarios.js'
export { shrinkSchedule } from './harness/shrink.js'
export { fleetTarget } from './harness/targets/fleet-edge.js'
export { kubeconfigTarget } from './harness/targets/kubeconfig-edge.js'
export { localTarget } from './harness/targets/local-edge.js'
export { runInSimulation } from './harness/targets/sim.js'
export type * from './harness/types.js'
export {
  type ReportModel,
  reportModel,
  reportPage,
  summariseDirectory,
  summarise,
  type Summary,
  summaryText,
  writeReport,
} from './report/index.js'
export { judge, PROMISES } from './verdict/index.js'
export { connectTo } from './workloads/edge/connect.js'
export { apiWorkload, desiredWorkload, schedulingWorkload, storeWorkload, WORKLOADS } from './workloads/index.js'
export type { ApiPort, Connections, StorePort } from './workloads/ports.js'
