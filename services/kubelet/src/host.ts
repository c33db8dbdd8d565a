/**
 * The port between the kubelet and its machine, for all that is not a container: size of the machine, files of volumes and
 * logs, probes over the network. Bodies: `RealHost` in `edge/`, `HollowHost` in `hollow.ts`.
 */
import type { DnsConfig } from './runtime.js'

export interface NodeHost {
  info(): Promise<HostInfo>
  /** What the host resolves names with; loopback servers, which a pod can't reach, left out. */
  dns(): Promise<DnsConfig>

  /** Directory of a pod's volumes, and of its logs. Absolute; made when something is put there. */
  podDirectory(podUid: string): string
  logDirectory(pod: { namespace: string; name: string; uid: string }): string
  /** Uids of the pods that have a directory (or logs) here. Sorted. */
  podDirectories(): Promise<string[]>
  /** Removes a pod's volumes, with whatever is mounted there. Idempotent. */
  removePodDirectory(podUid: string): Promise<void>
  /** Idempotent. */
  removeLogs(podUid: string): Promise<void>
  /** An empty directory, if there is none yet; `memoryBytes` (0: no bound) makes it a tmpfs where the host may. */
  makeDirectory(path: string, options: { mode: number; memoryBytes?: number }): Promise<void>
  /**
   * Makes the directory hold exactly these files, switched over at once: readers see the old or the new set, never both.
   * Does nothing if they are the same already.
   */
  writeFiles(directory: string, files: VolumeFile[]): Promise<void>
  /** As hostPath's types demand: '' checks nothing. @throws HostError with the sentence for the pod's event. */
  checkHostPath(path: string, type: string): Promise<void>
  /** A path below a volume, made as a directory if nothing is there. @throws HostError if it leads out of the volume. */
  subPath(volumePath: string, subPath: string): Promise<string>

  /** Undefined if there is no such file (yet). */
  openLog(path: string): Promise<LogFile | undefined>
  /** Renames a log that is larger to `<path>.1`, replacing an older one; true if it did. */
  rotateLog(path: string, bytesMax: number): Promise<boolean>
  removeFile(path: string): Promise<void>

  httpGet(probe: HttpProbe, timeoutMs: number): Promise<ProbeOutcome>
  tcpConnect(host: string, port: number, timeoutMs: number): Promise<ProbeOutcome>
}

export interface HostInfo {
  cpus: number
  memoryBytes: number
  /** Of the file system that holds volumes and logs. */
  diskBytes: number
  diskFreeBytes: number
  memoryFreeBytes: number
  /** `amd64`, `arm64`, … as Kubernetes names them. */
  architecture: string
  kernelVersion: string
  osImage: string
  machineId: string
  bootId: string
}

export interface VolumeFile {
  /** Relative; may hold slashes. */
  path: string
  bytes: Uint8Array
  mode: number
}

export interface LogFile {
  sizeBytes(): Promise<number>
  read(offset: number, lengthBytes: number): Promise<Uint8Array>
  /** Another file has its name now (it was rotated): this one grows no more. */
  replaced(): Promise<boolean>
  close(): Promise<void>
}

export interface HttpProbe {
  scheme: 'http' | 'https'
  host: string
  port: number
  path: string
  headers: [name: string, value: string][]
}

/** `message` is for the `Unhealthy` event. */
export interface ProbeOutcome {
  ok: boolean
  message: string
}

export class HostError extends Error {
  override readonly name = 'HostError'
}
