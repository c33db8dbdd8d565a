import type { Timer, World } from '@capstan/actor'
import type { NodeHost, ProbeOutcome } from './host.js'
import type { Container, Handler, Probe } from './kinds.js'
import type { ContainerRuntime } from './runtime.js'
import type { ProbeState } from './pod-memory.js'

export type ProbeKind = 'startup' | 'liveness' | 'readiness'

export interface ProberOptions {
  world: Pick<World, 'clock'>
  runtime: ContainerRuntime
  host: NodeHost
  container: Container
  containerId: string
  podIp: string
  startedAtMs: number
  /** What is known from before the kubelet's own restart: probes go on from there. */
  before: { ready: boolean; started: boolean }
  /** The outcome of a probe changed. */
  changed(state: ProbeState): void
  /** Each failure, for the event. */
  unhealthy(kind: ProbeKind, message: string): void
}

const CONNECT_HOST_IPV6 = /:/

/** The probes of one running container: liveness and readiness once startup has succeeded. */
export class Prober {
  readonly state: ProbeState
  private readonly timers = new Map<ProbeKind, Timer>()
  private readonly counts = new Map<ProbeKind, { ok: number; bad: number }>()
  private stopped = false

  constructor(private readonly options: ProberOptions) {
    const { startupProbe, readinessProbe } = options.container
    const { before } = options
    this.state = {
      started: startupProbe === undefined || before.started,
      ready: readinessProbe === undefined || before.ready,
      failed: undefined,
    }
    for (const kind of ['startup', 'liveness', 'readiness'] as const) this.schedule(kind, true)
  }

  static needed(container: Container): boolean {
    return (
      container.startupProbe !== undefined ||
      container.livenessProbe !== undefined ||
      container.readinessProbe !== undefined
    )
  }

  stop(): void {
    this.stopped = true
    for (const timer of this.timers.values()) timer.cancel()
    this.timers.clear()
  }

  private probe(kind: ProbeKind): Probe | undefined {
    const { container } = this.options
    return kind === 'startup'
      ? container.startupProbe
      : kind === 'liveness'
        ? container.livenessProbe
        : container.readinessProbe
  }

  private schedule(kind: ProbeKind, first: boolean): void {
    const probe = this.probe(kind)
    if (!probe || this.stopped) return
    const periodMs = (probe.periodSeconds ?? 10) * 1000
    const { clock } = this.options.world
    const sinceStartMs = clock.nowMs() - this.options.startedAtMs
    const delayMs = first ? Math.max(0, (probe.initialDelaySeconds ?? 0) * 1000 - Math.max(0, sinceStartMs)) : periodMs
    this.timers.set(
      kind,
      clock.setTimer(delayMs, () => {
        this.timers.delete(kind)
        void this.run(kind, probe)
      }),
    )
  }

  private async run(kind: ProbeKind, probe: Probe): Promise<void> {
    if (kind === 'startup' && this.state.started) return
    if (kind !== 'startup' && !this.state.started) {
      // Looked at again soon after the container counts as started.
      this.timers.set(
        kind,
        this.options.world.clock.setTimer(1000, () => void this.run(kind, probe)),
      )
      return
    }
    const outcome = await runHandler(this.options, probe, (probe.timeoutSeconds ?? 1) * 1000)
    if (this.stopped) return
    this.count(kind, probe, outcome)
    this.schedule(kind, false)
  }

  private count(kind: ProbeKind, probe: Probe, outcome: ProbeOutcome): void {
    const count = this.counts.get(kind) ?? { ok: 0, bad: 0 }
    this.counts.set(kind, outcome.ok ? { ok: count.ok + 1, bad: 0 } : { ok: 0, bad: count.bad + 1 })
    const { ok, bad } = this.counts.get(kind) as { ok: number; bad: number }
    if (!outcome.ok) this.options.unhealthy(kind, outcome.message)
    const succeeded = ok >= (kind === 'readiness' ? (probe.successThreshold ?? 1) : 1)
    const failed = bad >= (probe.failureThreshold ?? 3)
    if (kind === 'readiness' && (succeeded || failed)) this.set({ ready: succeeded })
    if (kind === 'startup' && succeeded) this.set({ started: true })
    if (kind !== 'readiness' && failed)
      this.set({
        failed: `failed ${kind} probe, will be restarted`,
        ...(probe.terminationGracePeriodSeconds === undefined
          ? {}
          : { graceSeconds: probe.terminationGracePeriodSeconds }),
      })
  }

  private set(change: Partial<ProbeState>): void {
    const before = JSON.stringify(this.state)
    Object.assign(this.state, change)
    if (JSON.stringify(this.state) !== before) this.options.changed(this.state)
  }
}

/** Runs what a probe or a lifecycle hook says. Never throws: what goes wrong is a failed outcome. */
export async function runHandler(
  on: Pick<ProberOptions, 'world' | 'runtime' | 'host' | 'container' | 'containerId' | 'podIp'>,
  handler: Handler,
  timeoutMs: number,
): Promise<ProbeOutcome> {
  try {
    if (handler.exec) {
      const { exitCode, stdout, stderr } = await on.runtime.exec(on.containerId, handler.exec.command ?? [], timeoutMs)
      const output = new TextDecoder().decode(stdout.length > 0 ? stdout : stderr).trim()
      return { ok: exitCode === 0, message: output.slice(0, 1024) || `exit code ${exitCode}` }
    }
    if (handler.httpGet) {
      const { scheme = 'HTTP', host, port, path = '/', httpHeaders = [] } = handler.httpGet
      return await on.host.httpGet(
        {
          scheme: scheme.toUpperCase() === 'HTTPS' ? 'https' : 'http',
          host: host || on.podIp,
          port: portOf(on.container, port),
          path: path.startsWith('/') ? path : `/${path}`,
          headers: httpHeaders.map(({ name, value }) => [name, value]),
        },
        timeoutMs,
      )
    }
    if (handler.tcpSocket)
      return await on.host.tcpConnect(
        handler.tcpSocket.host || on.podIp,
        portOf(on.container, handler.tcpSocket.port),
        timeoutMs,
      )
    if (handler.sleep) {
      const { seconds } = handler.sleep
      await new Promise<void>((resolve) => on.world.clock.setTimer(seconds * 1000, resolve))
      return { ok: true, message: '' }
    }
    return { ok: false, message: 'this kind of probe is not supported: exec, httpGet and tcpSocket are' }
  } catch (error) {
    return { ok: false, message: (error as Error).message.slice(0, 1024) }
  }
}

/** A number, or the name of one of the container's ports. */
function portOf(container: Container, port: string | number): number {
  const number = Number(port)
  if (Number.isInteger(number)) return number
  const named = container.ports?.find((one) => one.name === port)
  if (!named) throw new Error(`container ${container.name} has no port named ${port}`)
  return named.containerPort
}

/** `host:port`, with brackets where IPv6 needs them. */
export const authority = (host: string, port: number) =>
  CONNECT_HOST_IPV6.test(host) ? `[${host}]:${port}` : `${host}:${port}`
