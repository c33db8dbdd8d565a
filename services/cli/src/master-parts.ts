import type { World } from '@capstan/actor'
import { type ApiServerHandle, startApiServer } from '@capstan/apiserver'
import { listenHttps, tokenSigner, tokenVerifier } from '@capstan/apiserver/edge'
import { BusApiClient } from '@capstan/client'
import { startControllerManager } from '@capstan/controller-manager'
import { startScheduler } from '@capstan/scheduler'
import { controlTimes, type RecoveryTimes } from './layout.js'
import { within } from './patience.js'

const STOP_TIMEOUT_MS = 4000

export interface MasterPartsOptions {
  cluster: string
  /** This master's name, also that of its store member. */
  name: string
  /** All masters, in any order. */
  masters: readonly string[]
  /** Where pods reach this API server. */
  advertise: { address: string; port: number }
  /** `hosts`: addresses to listen on; undefined: all. The rest is PEM. */
  https: { port: number; hosts?: readonly string[]; key: string; cert: string; clientCa: string }
  /** PEM. */
  serviceAccount: { publicKey: string; privateKey: string }
  serviceCidr: string
  podCidr: string
  /** Length of the prefix of each node's part of `podCidr`. Default 24. */
  nodeCidrMaskBits?: number
  /** Seconds of the default tolerations for not-ready and unreachable nodes. */
  tolerationSeconds: number
  /** How long after a node's lease its StatefulSets' pods are given to others. Default: the controller-manager's. */
  identity?: { marginMs: number }
  /** How soon others take over from what died. Default: scheduler's and controller-manager's own. */
  recovery?: RecoveryTimes
}

export interface MasterParts {
  readonly api: ApiServerHandle
  /** Other certificates for connections that come from now on. */
  renew(https: { key: string; cert: string; clientCa: string }): void
  /** Scheduler and controller-manager let go of what they lead, within 4 s. */
  handOver(): Promise<void>
  /** The API server and its doors close, within 4 s. */
  close(): Promise<void>
}

/**
 * What a master runs in its own process: API server with HTTPS, scheduler, controller-manager, each on a world of its own.
 * @throws a listener's error (`EADDRINUSE`).
 */
export async function startMasterParts(
  worlds: Record<'apiserver' | 'scheduler' | 'controller-manager', World>,
  options: MasterPartsOptions,
): Promise<MasterParts> {
  const { cluster, name, https } = options
  const { privateKey, publicKey } = options.serviceAccount
  const api = startApiServer(worlds.apiserver, {
    cluster,
    instance: name,
    machine: name,
    storeMembers: [name, ...options.masters.filter((other) => other !== name)],
    advertise: options.advertise,
    serviceCidr: options.serviceCidr,
    defaultNotReadyTolerationSeconds: options.tolerationSeconds,
    defaultUnreachableTolerationSeconds: options.tolerationSeconds,
    verifyToken: tokenVerifier({ serviceAccountKey: publicKey }),
    signToken: await tokenSigner(privateKey),
  })
  const { port, key, cert, clientCa } = https
  const doors = (https.hosts ?? [undefined]).map((host) =>
    listenHttps(api, { port, key, cert, clientCa, ...(host === undefined ? {} : { host }) }),
  )
  const listeners = await Promise.all(doors)

  const client = (world: World) => new BusApiClient(world, { cluster, machine: name })
  const { election, nodes } = controlTimes(options.recovery)
  const scheduler = startScheduler(worlds.scheduler, {
    client: client(worlds.scheduler),
    identity: name,
    ...(election ? { election } : {}),
  })
  const manager = await startControllerManager(worlds['controller-manager'], {
    cluster,
    machine: name,
    clusterCidr: options.podCidr,
    ...(options.nodeCidrMaskBits === undefined ? {} : { nodeCidrMaskBits: options.nodeCidrMaskBits }),
    rootCaPem: clientCa,
    ...(options.identity ? { identity: { marginMs: options.identity.marginMs } } : {}),
    ...(election ? { election } : {}),
    ...(nodes ? { nodes } : {}),
  })
  return {
    api,
    renew(certificates) {
      for (const listener of listeners) listener.renew(certificates)
    },
    async handOver() {
      await within(STOP_TIMEOUT_MS, Promise.all([scheduler.stop(), manager.stop()]))
    },
    async close() {
      await within(STOP_TIMEOUT_MS, Promise.all([api.stop(), ...listeners.map((listener) => listener.close())]))
    },
  }
}
