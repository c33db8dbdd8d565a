/**
 * What a chaos run is made of. The harness makes it happen (targets, faults, scenarios, the run); workloads use the cluster and
 * record what they were told; the judge turns records into a verdict by promise. All that is recorded is JSON.
 *
 * Times whose names end in `Ms` are milliseconds since the run began, by one monotonic clock, and may be fractions.
 */
import type { Clock, Random } from '@capstan/actor'
import type { HistoryEvent } from '../checkers/history.js'
import type { MemberState } from '../checkers/durability.js'
import type { RunningPods } from '../checkers/nodes.js'
import type { ObjectEvent } from '../checkers/objects.js'
import type { WatchRecord } from '../checkers/watch.js'

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

// ------------------------------------------------------------------------------------------------------------- target

/** Where a run happens. */
export type TargetKind = 'sim' | 'local' | 'fleet' | 'kubeconfig'

export interface Machine {
  name: string
  role: 'master' | 'node'
  zone?: string
  address?: string
}

/** An HTTPS endpoint of the Kubernetes API. */
export interface ApiEndpoint {
  /** `master-0`; `balancer` for what the kubeconfig points at. */
  name: string
  /** `https://127.0.0.1:6444` */
  url: string
}

/** An etcd v3 gRPC endpoint (TLS): the store itself. */
export interface EtcdEndpoint {
  member: string
  /** `host:port` */
  address: string
}

/** Who we are towards an endpoint: PEM. A kubeconfig's may be a token instead of a certificate. */
export interface Credentials {
  ca?: string
  cert?: string
  key?: string
  token?: string
  /** The server name to expect, where it is not the URL's host. */
  serverName?: string
  /** A kubeconfig that asked for it. */
  insecure?: boolean
}

/** How a workload reaches the cluster. Plain data, and what can only be seen from outside. */
export interface Access {
  on: TargetKind
  /** Path of an administrator's kubeconfig. */
  kubeconfig: string
  /** Where kubectl would go. */
  balancer: ApiEndpoint
  /** One for each API server that can be reached by itself; at least one (then maybe the balancer). */
  apiEndpoints: readonly ApiEndpoint[]
  apiCredentials: Credentials
  /** Empty: the store cannot be reached here; store workloads then count as not tested. */
  etcdEndpoints: readonly EtcdEndpoint[]
  etcdCredentials?: Credentials
  /** Names; empty until known. */
  nodes: readonly string[]
  /** `hollow`: pods only pretend, nothing answers on their addresses. `unknown`: not ours. */
  runtime: 'containerd' | 'process' | 'hollow' | 'unknown'
  /** Whether addresses of pods and Services can be reached from the harness's own process. */
  reachesPods: boolean
  /** Ms since the run began: what all records bear. */
  nowMs(): number
  /** For timers only. */
  clock: Clock
  /**
   * The containers that live on each node, seen from outside (process table), not by what kubelets say. Missing: cannot be
   * seen here. A paused one does nothing and is left out.
   */
  liveContainers?(): Promise<LiveContainer[]>
}

export interface LiveContainer {
  node: string
  pod: string
  podUid?: string
  container?: string
  /** Of its first process, on the host. */
  pid: number
  /** What that process runs: its program and arguments, as far as they are known. */
  command?: string
}

/** What a target can do to its machines; a lever that is missing has its reason in `Target.lacks`. */
export interface Target {
  kind: TargetKind
  /** One line for people. */
  description: string
  machines: readonly Machine[]
  access: Access
  levers: Levers
  /** Why a lever, or a single fault, can't be had here. */
  lacks: Readonly<Partial<Record<keyof Levers | string, string>>>
  /** Resolves when all its machines do their work. @throws Error: they do not, after a while. Missing: it is not known. */
  awaitReady?(say: (text: string) => void): Promise<void>
  /** What the cluster says of itself now; takes at most a second; machines that do not answer are down. */
  look(): Promise<ClusterLook>
  /** Gathers what the judge needs once the trouble is over. `fromRevision`: of the store, when the run began. */
  finalState(options: { fromRevision: number }): Promise<FinalState>
  /** Undoes whatever may be in force, and removes all that the target made; idempotent. Says what it could not remove. */
  clear(): Promise<string[]>
}

export interface ClusterLook {
  /** Of the store, where it can be asked. */
  revision?: number
  leader?: string
  /** The master that holds the controller-manager's lock, where the API tells. */
  controllers?: string
  term?: number
  masters: { name: string; up: boolean; role?: 'leader' | 'follower' | 'down'; commitIndex?: number }[]
  nodes: { name: string; ready: boolean }[]
  /** Resident memory by process, bytes, where it can be seen. */
  memory?: Record<string, number>
}

/** A process of a machine. `machine`: the whole process group, containers included. */
export type Component =
  | 'machine'
  | 'store'
  | 'bus'
  /** A master's own process: API server, scheduler, controller-manager. */
  | 'control'
  /** A node's own process: kubelet and kube-proxy; its containers live on. */
  | 'kubelet'
  /** The machine's process group without containers and guard: what stops when a shell stops a job. */
  | 'group'
  | 'guard'
  | 'containerd'
  | 'gateway'

/** Undoes one thing that was done; idempotent. Resolves when the undoing has taken effect, with what proves it. */
export type Undo = () => Promise<string>

/** The thing is done: what proves it, and how it is undone. */
export interface Done {
  proof: string
  undo: Undo
}

export interface Levers {
  processes?: {
    /** SIGKILL. `undo` starts again what nobody else does, and waits until it is there. */
    kill(machine: string, component: Component): Promise<Done>
    /** SIGSTOP; `undo` continues. */
    pause(machine: string, component: Component): Promise<Done>
    /** SIGTERM, waits for the end, starts again. */
    restart(machine: string, component: Component): Promise<Done>
    /** Keeps processors busy beside the machine, in its cgroup where it has one. */
    burnCpu?(machine: string, threads: number): Promise<Done>
    /** A lid on the memory of the machine's cgroup, or memory taken from the host. */
    squeezeMemory?(machine: string, bytes: number): Promise<Done>
  }
  /** Links between machines: each `cut` is one direction. */
  network?: {
    cut(from: string, to: string): Promise<Done>
    loss?(from: string, to: string, share: number): Promise<Done>
    delay?(from: string, to: string, ms: number): Promise<Done>
    duplicate?(from: string, to: string, share: number): Promise<Done>
    reorder?(from: string, to: string, share: number): Promise<Done>
    corrupt?(from: string, to: string, share: number): Promise<Done>
    bandwidth?(from: string, to: string, bytesPerSecond: number): Promise<Done>
  }
  bus?: {
    /** The route between the bus servers of two masters. */
    cutRoutes?(a: string, b: string): Promise<Done>
    /** A client that reads nothing of what it asked for. */
    slowConsumer?(): Promise<Done>
  }
  /** Decorators of the Disk and StateEngine ports of the store of a master. */
  disk?: {
    full(machine: string): Promise<Done>
    slowSync(machine: string, ms: number): Promise<Done>
    failSync(machine: string): Promise<Done>
    /** The power goes: the store is killed and what it had not synced is gone. */
    loseUnsynced(machine: string): Promise<Done>
    /** Bits of what is read from now on, or of a file at rest while it is down. */
    flipBits(machine: string, count: number): Promise<Done>
  }
  /** A decorator of the Clock port of the processes of a machine. */
  clock?: {
    jump(machine: string, ms: number): Promise<Done>
    /** `rate` 1.05: runs 5 % fast. */
    skew(machine: string, rate: number): Promise<Done>
  }
  containers?: {
    kill(node: string, count: number): Promise<Done>
    /** Images can't be had from now on. */
    unpullable?(): Promise<Done>
  }
  /** What anybody with an administrator's kubeconfig can do. */
  api?: {
    deletePods(count: number, options: { force: boolean }, random: Random): Promise<Done>
    cordon(node: string): Promise<Done>
    drain(node: string): Promise<Done>
  }
  certificates?: {
    /** The certificate by which a node is let in has expired; `undo` gets it another one as its operator would. */
    expire(node: string): Promise<Done>
  }
  /** Blocks the event loop of a process for so long at a time, again and again. */
  eventLoop?: {
    block(machine: string, component: Component, ms: number): Promise<Done>
  }
  members?: {
    /** The master is removed for good and another one joins in its place. */
    replaceMaster?(machine: string): Promise<Done>
    /** The machine's processes are replaced by the next program's. */
    upgrade?(machine: string): Promise<Done>
  }
}

// -------------------------------------------------------------------------------------------------------------- fault

/**
 * Whom a fault strikes: a name, or a role that is resolved when it strikes, so that a schedule can be replayed: `leader`,
 * `controllers`, `follower:0`, `master:1` and `node:0` (in order of names), `zone:b`, `masters`, `majority`, `minority`, `nodes`, `all`.
 */
export type Whom = string

export type FaultParameters = { [key: string]: Json }

export interface Fault {
  name: string
  /** One sentence: what happens, and by which means. */
  about: string
  /** The lever it needs; without it in a target it is not tested there. */
  lever: keyof Levers
  /** Undefined: it can be made there; else why not. */
  lack(target: Target): string | undefined
  draw(random: Random, target: Pick<Target, 'machines'>): FaultParameters
  /** @throws Error if it did not take effect; then nothing of it is left in force. */
  inject(target: Target, parameters: FaultParameters, random: Random): Promise<InForce>
}

export interface InForce extends Done {
  /** The machines that it struck, as resolved. */
  struck: string[]
  /** By which means, for the report: `SIGKILL to process group`, `nftables`, `decorator of the Disk port`, … */
  means: string
}

/** One line of a schedule. */
export interface ScheduledFault {
  /** After the end of the warm-up. */
  atMs: number
  fault: string
  parameters: FaultParameters
  /** Undone so long after it took effect; at latest when the trouble ends. */
  lastsMs: number
}

/** Replayable: everything that a run does to its target. In order of `atMs`. */
export interface Schedule {
  formatVersion: 1
  faults: ScheduledFault[]
}

/** What came of one line of the schedule. */
export interface FaultRecord {
  /** Its place in the schedule. */
  index: number
  fault: string
  parameters: FaultParameters
  /** `not tested`: this target cannot make it. `failed`: it should have taken effect, and did not. */
  result: 'made' | 'not tested' | 'failed'
  /** Why not. */
  why?: string
  means?: string
  struck: string[]
  /** Asked for; took effect; asked to be undone; undone. Missing: it did not come to that. */
  askedMs: number
  inForceMs?: number
  undoAskedMs?: number
  undoneMs?: number
  /** That it took effect; that it is undone. */
  proof?: string
  undoProof?: string
}

// ----------------------------------------------------------------------------------------------------------- workload

/** Options of a workload, as a scenario states them. */
export interface WorkloadUse {
  workload: string
  options?: { [key: string]: Json }
}

export interface Workload {
  name: string
  about: string
  /** The promises whose records it brings. */
  promises: readonly string[]
  /** Undefined: it can run there; else why not. */
  lack(access: Access): string | undefined
  /** Resolves when it is under way (objects made, first answers had). @throws Error: the run cannot begin. */
  start(access: Access, random: Random, options?: { [key: string]: Json }): Promise<Running>
}

export interface Running {
  /** For the live view, cheap: figures, and what is plainly wrong by now. */
  look(): { counters: Record<string, number>; wrong: string[] }
  /**
   * From now on only what leads to a judgement: no new changes; readers go on until they have what is there. Called when
   * all faults are undone. Missing: `stop` is enough.
   */
  settle?(): Promise<void>
  /** Whether what the workload asked for is there (desired state); asked again and again after a fault. Missing: no opinion. */
  isAsDesired?(): Promise<string | undefined>
  /** Ends it; idempotent. */
  stop(): Promise<WorkloadResult>
}

export type Outcome = 'ok' | 'did-not-happen' | 'may-have-happened'

/** One operation of one process. A process (client) does one thing after the other. */
export interface HistoryRecord {
  process: string
  /** `get`, `put`, `compareAndSet`, `delete`, `append`, `add`, `read`, `create`, `update`, `list`, … */
  operation: string
  /** The object or key that it is about. */
  key: string
  argument?: Json
  invokedMs: number
  outcome: Outcome
  /** With `ok`: what was answered. */
  value?: Json
  /** With `ok`: the revision (resourceVersion) that it was told. */
  revision?: number
  /** Missing with `may-have-happened`: it may take effect at any later time. */
  returnedMs?: number
  /** Where it was sent. */
  endpoint?: string
  error?: string
}

/** A figure over time. */
export interface Series {
  name: string
  unit: string
  points: [atMs: number, value: number][]
}

export interface WorkloadResult {
  workload: string
  history: HistoryRecord[]
  watches: WatchRecord[]
  counters: Record<string, number>
  series: Series[]
  /** What should be there in the end, as far as it was acknowledged: name of a set of pods → replicas. */
  desired?: { namespace: string; kind: string; name: string; replicas: number }[]
  /** What the workload itself saw and need not be searched for: text by promise. */
  violations: { promise: string; text: string; evidence: string[] }[]
  /** What else its judge needs. */
  more?: Json
}

// ----------------------------------------------------------------------------------------------------------- judgement

/** The cluster after all faults are undone and the settling time is over. */
export interface FinalState {
  atMs: number
  /** Every change of every key of the store since the run began, by a watch of the store; missing: it cannot be had here. */
  storeHistory?: HistoryEvent[]
  /** The same for API objects. */
  objectHistory?: ObjectEvent[]
  /** The API's objects through each master: name of the endpoint → key as in the store → object. */
  objects: { endpoint: string; objects: { key: string; object: Json }[] }[]
  members?: MemberState[]
  running?: RunningPods[]
  /** What could not be gathered, and why. */
  lacks: string[]
}

export type PromiseState = 'ok' | 'violated' | 'unknown' | 'not tested'

export interface PromiseVerdict {
  /** `S1`, `C3`, … */
  promise: string
  state: PromiseState
  text: string
  /** The shortest piece of history that shows it. */
  evidence: string[]
}

/** How long after a fault took effect (and, for `afterUndo`, after it was undone) things were well again. */
export interface Recovery {
  /** Into `RunRecord.faults`. */
  index: number
  fault: string
  /** From the fault to the first write acknowledged that was asked for after it; null: none before the next fault. Missing:
   *  no workload of the run writes all the time. */
  firstWriteMs?: number | null
  /** Longest time without an acknowledged write from the fault until the next one; missing as above. */
  writeGapMs?: number
  /** From the fault to the desired state; missing: not reached before the next fault, or no opinion. */
  desiredStateMs?: number
  /**
   * From the moment the fault was asked for; null: not before it was undone or the next one struck. Missing: it was not to
   * be expected (nothing of the kind was struck, or the fault was too short), or nobody looked.
   * Until other masters held every lock of scheduler and controller-manager that the struck ones had held.
   */
  takeOverMs?: number | null
  /** Until every struck node was marked: not Ready. */
  markedMs?: number | null
  /** Until all pods that were wanted ran again, while the struck nodes were still away. */
  replacedMs?: number | null
}

export interface Verdict {
  state: PromiseState
  promises: PromiseVerdict[]
  recoveries: Recovery[]
  /** Requests of clients: all, those that failed, and those that failed also when repeated once, if that was tried. */
  requests: { total: number; failed: number; failedAfterRetry?: number }
}

/** What the judge is given: all of the record but its verdict. */
export type Judge = (run: Omit<RunRecord, 'verdict'>) => Verdict

// ------------------------------------------------------------------------------------------------------------ scenario

export interface Scenario {
  name: string
  /** Whom it hurts, and how. */
  about: string
  workloads: readonly WorkloadUse[]
  /** Promises that must hold; a promise that nothing could test makes the run `unknown`, never ok. */
  mustHold: readonly string[]
  /** Smallest cluster that it makes sense on. */
  needs: { masters: number; nodes: number; zones?: number }
  /** Faults that the scenario is about: one of them not made and the scenario is not tested, or unknown. Of others, drawn ones,
   *  one in five may fail. Default: all of the schedule. */
  essential?: readonly string[]
  warmUpMs: number
  /** Of the schedule; scaled by `--minutes`. */
  troubleMs: number
  /** Stated time of promise C1: so long after the last fault is undone everything is as asked. */
  settleMs: number
  /** The same seed gives the same schedule for machines of the same names. */
  schedule(random: Random, options: { machines: readonly Machine[]; troubleMs: number }): Schedule
}

/** A look at the cluster, for the time line. */
export interface Sample extends ClusterLook {
  atMs: number
  /** Sums over workloads. */
  counters: Record<string, number>
  /** What keeps the cluster from being as desired; missing: it is, or nobody has an opinion. */
  undesired?: string
}

/** Everything of one run. */
export interface RunRecord {
  formatVersion: 1
  scenario: string
  about: string
  on: TargetKind
  target: string
  /** Hexadecimal. */
  seed: string
  /** ISO 8601, wall clock. */
  startedAt: string
  /** Of Capstan, of Node, of the kernel; processors and memory. */
  environment: Record<string, string>
  machines: readonly Machine[]
  mustHold: readonly string[]
  warmUpMs: number
  troubleMs: number
  settleMs: number
  /** When the last fault was undone; when the run was over. */
  healedMs: number
  endedMs: number
  schedule: Schedule
  faults: FaultRecord[]
  /** Faults, workloads and promises that could not be had here, and why: never counted as ok. */
  notTested: { what: string; why: string }[]
  workloads: WorkloadResult[]
  samples: Sample[]
  finalState: FinalState
  /** What the harness itself found wrong: a fault that could not be undone, something left over on the host. */
  troubles: string[]
  /** By Ctrl-C: it did not get its time to settle. */
  interrupted?: true
  verdict: Verdict
}
