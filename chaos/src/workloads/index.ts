import type { Workload } from '../harness/types.js'
import { apiWorkload } from './api-workload.js'
import { desiredWorkload } from './desired-workload.js'
import { connectTo } from './edge/connect.js'
import { lookoutWorkload } from './lookout-workload.js'
import { schedulingWorkload } from './scheduling-workload.js'
import { storeWorkload } from './store-workload.js'

/** Every workload, with the real ways to a cluster. */
export const WORKLOADS: readonly Workload[] = [
  storeWorkload(connectTo),
  apiWorkload(connectTo),
  desiredWorkload(connectTo),
  schedulingWorkload(connectTo),
  lookoutWorkload(connectTo),
]
export { apiWorkload, desiredWorkload, lookoutWorkload, schedulingWorkload, storeWorkload }
