export { type Guard, LocalGuard } from './guard.js'
export type { GuardOrder, GuardTarget, KillTarget } from './guard-core.js'
export { HollowHost, type HollowOptions, HollowRuntime } from './hollow.js'
export {
  HostError,
  type HostInfo,
  type HttpProbe,
  type LogFile,
  type NodeHost,
  type ProbeOutcome,
  type VolumeFile,
} from './host.js'
export { type IdentityBug, type IdentityOptions } from './identity-keeper.js'
export { type KubeletHandle, type KubeletOptions, startKubelet } from './kubelet.js'
export type { Allocatable } from './resources.js'
export {
  type ContainerResources,
  type ContainerRuntime,
  type ContainerSecurity,
  type ContainerSpec,
  type ContainerState,
  type ContainerStats,
  type DnsConfig,
  type ExecResult,
  type ImageInfo,
  type ImageUse,
  type Mount,
  OUTPUT_BYTES_MAX,
  type PodIdentity,
  type RegistryCredentials,
  type RuntimeContents,
  RuntimeError,
  type RuntimeErrorCode,
  type RuntimeInfo,
  type RuntimeKind,
  type SandboxSpec,
  type SandboxState,
} from './runtime.js'
