import { decode, encode, every, type World } from '@capstan/actor'
import { type Beat, BEAT_MISSING_MS, BEAT_PERIOD_MS, type Component, Subjects } from '@capstan/protocol'
import { byText } from './kube-object.js'

const TICK_MS = 250
/** A longer gap between two own ticks means that this process did not run, and so could not hear. */
const TICK_GAP_MS = 1000
const INSTANCES_MAX = 20_000

interface Heard {
  beat: Beat
  /** Monotonic. Start of the silence as far as this side can judge it. */
  heardMs: number
}

/**
 * Hears the beats of one component and knows which of its instances are silent. Judges only time in which it could have
 * heard: after a gap between its own ticks, a reconnect of the bus, or `restart`, every silence starts anew.
 */
export class BeatTracker {
  private readonly instances = new Map<string, Heard>()
  private readonly listeners = new Set<(beat: Beat) => void>()
  private readonly restartListeners = new Set<(why: string) => void>()
  private readonly stops: (() => void)[] = []
  private refused = false

  constructor(
    private readonly world: Pick<World, 'clock' | 'bus' | 'log'>,
    options: { cluster: string; component: Component },
  ) {
    const { bus, clock } = world
    const subscription = bus.subscribe(new Subjects(options.cluster).beats(options.component), (message) => {
      const beat = parseBeat(message.payload)
      if (!beat || beat.component !== options.component) {
        world.log.warn({ subject: message.subject, bytes: message.payload.length }, 'refused a message that is no beat')
        return
      }
      this.receive(beat)
    })
    let { epoch } = bus
    let tickedMs = clock.monotonicMs()
    this.stops.push(
      () => subscription.unsubscribe(),
      bus.onChange((state) => {
        if (state.connected && state.epoch === epoch) return
        epoch = state.epoch
        this.restart(state.connected ? 'bus reconnected' : 'bus disconnected')
      }),
      every(clock, TICK_MS, () => {
        const now = clock.monotonicMs()
        if (now - tickedMs > TICK_GAP_MS) this.restart('own ticks had a gap')
        // Disconnected: nothing can be heard, so no silence grows.
        else if (!bus.connected) this.startSilences(now)
        tickedMs = now
      }),
    )
  }

  /** All grace periods start anew (taking over leadership). */
  restart(why: string): void {
    this.startSilences(this.world.clock.monotonicMs())
    for (const listener of Array.from(this.restartListeners)) listener(why)
  }

  /** How long this instance has been silent, in ms in which this side could have heard; undefined: never heard of it. */
  silenceMs(instance: string): number | undefined {
    const heard = this.instances.get(instance)
    return heard && this.world.clock.monotonicMs() - heard.heardMs
  }

  /** Last beats of the instances that are not missing, by instance name. */
  alive(missingMs = BEAT_MISSING_MS): Beat[] {
    const since = this.world.clock.monotonicMs() - missingMs
    return [...this.instances.values()]
      .filter((heard) => heard.heardMs >= since)
      .map((heard) => heard.beat)
      .sort((a, b) => byText(a.instance, b.instance))
  }

  last(instance: string): Beat | undefined {
    return this.instances.get(instance)?.beat
  }

  /** Of an instance that is known to be no more. */
  forget(instance: string): void {
    this.instances.delete(instance)
  }

  onBeat(listener: (beat: Beat) => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  /** Called when all silences start anew, with the cause. */
  onRestart(listener: (why: string) => void): () => void {
    this.restartListeners.add(listener)
    return () => this.restartListeners.delete(listener)
  }

  stop(): void {
    for (const stop of this.stops.splice(0)) stop()
  }

  private startSilences(now: number): void {
    for (const heard of this.instances.values()) heard.heardMs = now
  }

  private receive(beat: Beat): void {
    if (!this.instances.has(beat.instance) && this.instances.size >= INSTANCES_MAX) {
      if (!this.refused)
        this.world.log.error({ instances: INSTANCES_MAX }, 'too many instances beat; new ones are ignored')
      this.refused = true
      return
    }
    this.instances.set(beat.instance, { beat, heardMs: this.world.clock.monotonicMs() })
    for (const listener of Array.from(this.listeners)) listener(beat)
  }
}

function parseBeat(bytes: Uint8Array): Beat | undefined {
  try {
    const beat = decode(bytes) as Partial<Beat> | null
    if (typeof beat !== 'object' || beat === null) return undefined
    if (typeof beat.component !== 'string' || typeof beat.instance !== 'string' || typeof beat.ready !== 'boolean')
      return undefined
    return beat as Beat
  } catch {
    return undefined // The caller logs and drops it.
  }
}

/**
 * Sends this instance's beat now and every second: msgpack of `Beat` on `beat.<component>.<instance>`. `describe` is
 * asked each time. A beat that can't be sent is not sent later. Returns how to stop.
 */
export function startBeating(
  world: Pick<World, 'clock' | 'bus' | 'log' | 'random'>,
  options: {
    cluster: string
    component: Component
    instance: string
    machine: string
    describe(): Pick<Beat, 'ready' | 'role' | 'load'>
  },
): (() => void) & { now(): void } {
  const { component, instance, machine } = options
  const subject = new Subjects(options.cluster).beat(component, instance)
  const incarnation = hex(world.random.fork(`beat/${component}/${instance}`).bytes(8))
  let seq = 0
  const send = () => {
    const beat: Beat = { component, instance, machine, seq: ++seq, incarnation, ...options.describe() }
    try {
      world.bus.publish(subject, encode(beat))
    } catch (error) {
      world.log.debug({ err: error, subject }, 'beat not sent')
    }
  }
  send()
  return Object.assign(every(world.clock, BEAT_PERIOD_MS, send), { now: send })
}

export function hex(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}
