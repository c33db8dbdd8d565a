/** The library entry: a cluster inside one's own program. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Log } from '@capstan/actor'
import type { ApiClient } from '@capstan/client'
import { silentLog } from '@capstan/real'
import { AdminClient } from './admin-client.js'
import { UserError } from './console.js'
import { EmbeddedCluster, type MasterState, type NodeState } from './embedded.js'
import { readLayout, writeLayout } from './layout-file.js'
import { layOut, Places } from './layout.js'
import { runningProcesses } from './machines.js'
import { ensurePki, readSecrets } from './pki.js'
import { waitFor } from './process-file.js'

const DEFAULT_PORT = 6443
const READY_TIMEOUT_MS = 60_000
const READY_PERIOD_MS = 20

export interface ClusterOptions {
  /** From 1 to 9; default 3. Called master-0 and so on. */
  masters?: number
  /** From 0 to 50; default 3. Called node-0 and so on. */
  nodes?: number
  /** `hollow` (default) only pretends containers; `process` runs them as child processes and needs `data`. */
  runtime?: 'hollow' | 'process'
  /** Directory that keeps the state, as `capstan up` lays it out. Missing: everything is in memory and ends with `stop`. */
  data?: string
  /** Serve HTTPS on 127.0.0.1: a balancer on `port` (default 6443), the masters on the ports after it. */
  https?: { port?: number }
  /** Seconds that pods stay on a node that is not ready or unreachable, if they do not say themselves. Default 2. */
  tolerationSeconds?: number
  /** Default: says nothing. */
  log?: Log
}

export interface ClusterState {
  masters: MasterState[]
  nodes: NodeState[]
}

/**
 * Masters and nodes in this process. They share its event loop: what blocks it blocks them all, and more than an election
 * time-out (300 ms) of that lets leaders change. `kill` plays a crash as far as one process can (see `EmbeddedCluster`).
 */
export class Cluster {
  private ended: Promise<void> | undefined

  private constructor(
    private readonly embedded: EmbeddedCluster,
    /** Text of an administrator's kubeconfig; only with `https`. */
    readonly kubeconfig: string | undefined,
    private readonly cleanUp: () => void,
  ) {}

  /**
   * Resolves when every API server may be asked and every node is Ready.
   * @throws RangeError for numbers out of range; UserError if `data` is in use or has another number of masters;
   *   a listener's error (`EADDRINUSE`); Error if it is not ready after 60 s. Nothing then stays behind.
   */
  static async start(options: ClusterOptions = {}): Promise<Cluster> {
    const { masters = 3, nodes = 3, runtime = 'hollow', data, https, tolerationSeconds = 2, log = silentLog } = options
    checkCount('masters', masters, 1, 9)
    checkCount('nodes', nodes, 0, 50)
    if (runtime === 'process' && data === undefined) throw new RangeError('the process runtime needs a data directory')
    const port = https?.port ?? DEFAULT_PORT
    const layout = layOut({ masters, nodes, bus: 'memory', runtime, port, slot: 0, id: 'library', tolerationSeconds })

    // In memory only certificates need a place, while there is HTTPS.
    const scratch = data === undefined && https ? await mkdtemp(join(tmpdir(), 'capstan-')) : undefined
    const directory = data ?? scratch
    const places = directory === undefined ? undefined : new Places(directory)
    const admin = places && https && new AdminClient(places)
    const cleanUp = () => {
      admin?.close()
      if (scratch !== undefined) rmSync(scratch, { recursive: true, force: true })
    }
    let embedded: EmbeddedCluster | undefined
    try {
      if (places && data !== undefined) {
        const earlier = readLayout(places)
        if (earlier) {
          const running = runningProcesses(earlier, places)
          if (running.length > 0) throw new UserError(`a cluster already runs in ${data} (${running.join(', ')})`)
          if (earlier.masters.length !== masters)
            throw new UserError(`the cluster in ${data} has ${earlier.masters.length} masters, not ${masters}`)
        }
        writeLayout(places, layout)
        if (!earlier) writeFileSync(places.newCluster, '')
      }
      if (places) await ensurePki(layout, places)
      const secrets = places && readSecrets(places)
      let isNew = data === undefined
      embedded = new EmbeddedCluster({
        layout,
        clusterId: secrets?.clusterId ?? 'memory',
        directory: places && data !== undefined ? (machine) => places.machine(machine) : undefined,
        isNew: () => isNew || (data !== undefined && places !== undefined && existsSync(places.newCluster)),
        ...(secrets ? { secrets } : {}),
        ...(admin
          ? { https: { check: async (b) => (await admin.request({ ...b, path: '/readyz' }, 1000))?.status === 200 } }
          : {}),
        log,
      })
      await embedded.start()
      await awaitReady(embedded)
      isNew = false
      if (places) rmSync(places.newCluster, { force: true })
      return new Cluster(embedded, admin && places ? readFileSync(places.kubeconfig, 'utf8') : undefined, cleanUp)
    } catch (error) {
      await embedded?.stop()
      cleanUp()
      throw error
    }
  }

  /** A client with an administrator's rights, over the bus. It ends with the cluster. */
  client(): ApiClient {
    return this.embedded.client()
  }

  /** Ends a master or node without a word to the others. @throws RangeError if there is none of that name. */
  kill(name: string): Promise<void> {
    return this.embedded.killMachine(name)
  }

  /** Starts a killed one again, over the disk that it had. @throws RangeError if there is none of that name. */
  start(name: string): Promise<void> {
    return this.embedded.startMachine(name)
  }

  /** What each machine says of itself. */
  async status(): Promise<ClusterState> {
    return { masters: await this.embedded.masterStates(), nodes: this.embedded.nodeStates() }
  }

  /** Ends everything; only `data` stays. Idempotent. */
  stop(): Promise<void> {
    this.ended ??= this.embedded.stop().finally(this.cleanUp)
    return this.ended
  }
}

async function awaitReady(embedded: EmbeddedCluster): Promise<void> {
  const client = embedded.client()
  let text = ''
  const ready = await waitFor(
    async () => {
      const state = await embedded.readiness(client)
      text = state.text
      return state.ready
    },
    READY_TIMEOUT_MS,
    READY_PERIOD_MS,
  )
  if (!ready) throw new Error(`not ready after ${READY_TIMEOUT_MS / 1000} s: ${text}`)
}

function checkCount(what: string, count: number, min: number, max: number): void {
  if (!Number.isInteger(count) || count < min || count > max)
    throw new RangeError(`${what} must be a whole number from ${min} to ${max}`)
}
