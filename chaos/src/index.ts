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
