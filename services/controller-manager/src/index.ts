export {
  type ControllerManagerCounters,
  type ControllerManagerHandle,
  startControllerManager,
} from './controller-manager.js'
export type { ControllerManagerOptions, NodeLifecycleOptions, PodGcOptions } from './options.js'
