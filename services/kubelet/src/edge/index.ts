export { clearContainerd, type Containerd, type ContainerdOptions, startContainerd } from './containerd.js'
export { CriRuntime, type CriRuntimeOptions } from './cri-runtime.js'
export { ProcessRuntime, type ProcessRuntimeOptions } from './process-runtime.js'
export { RealHost } from './real-host.js'
