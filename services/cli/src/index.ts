export { Cluster, type ClusterOptions, type ClusterState } from './cluster.js'
export { UserError } from './console.js'
export type { MasterState, NodeState } from './embedded.js'
export { provideEtcd } from './packages.js'
