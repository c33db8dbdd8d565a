import { CallError, type World } from '@capstan/actor'
import { type ApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import type { Keys } from './environment.js'

const ENTRIES_MAX = 1024
const TIMEOUT_MS = 10_000

interface Entry {
  atMs: number
  keys: Promise<Keys | undefined>
}

/** ConfigMaps and Secrets that pods refer to: read by name when needed (a node may not list them), shared for a short time. */
export class ObjectCache {
  private readonly entries = new Map<string, Entry>()

  constructor(
    private readonly world: Pick<World, 'clock'>,
    private readonly client: ApiClient,
  ) {}

  /** Undefined: there is none. Not older than `maxAgeMs`. @throws CallError */
  async get(
    kind: 'configmaps' | 'secrets',
    namespace: string,
    name: string,
    maxAgeMs: number,
  ): Promise<Keys | undefined> {
    const key = `${kind} ${namespace}/${name}`
    const nowMs = this.world.clock.monotonicMs()
    const known = this.entries.get(key)
    if (known && nowMs - known.atMs <= maxAgeMs) return known.keys
    const entry = { atMs: nowMs, keys: this.read(kind, namespace, name) }
    this.entries.delete(key)
    // Oldest first; the map keeps the order of insertion.
    if (this.entries.size >= ENTRIES_MAX)
      for (const oldest of [...this.entries.keys()].slice(0, 1)) this.entries.delete(oldest)
    this.entries.set(key, entry)
    try {
      return await entry.keys
    } catch (error) {
      if (this.entries.get(key) === entry) this.entries.delete(key)
      throw error
    }
  }

  private async read(kind: 'configmaps' | 'secrets', namespace: string, name: string): Promise<Keys | undefined> {
    try {
      const object = await this.client.get<KeyedObject>(RESOURCES[kind], { namespace, name }, { timeoutMs: TIMEOUT_MS })
      return kind === 'secrets'
        ? decodeAll(object.data)
        : { ...encodeAll(object.data), ...decodeAll(object.binaryData) }
    } catch (error) {
      if (error instanceof CallError && error.code === 'NotFound') return undefined
      throw error
    }
  }
}

interface KeyedObject extends KubeObject {
  data?: Record<string, string>
  binaryData?: Record<string, string>
}

const encodeAll = (data: Record<string, string> = {}): Keys =>
  Object.fromEntries(Object.entries(data).map(([key, value]) => [key, new TextEncoder().encode(value)]))
const decodeAll = (data: Record<string, string> = {}): Keys =>
  Object.fromEntries(Object.entries(data).map(([key, value]) => [key, Uint8Array.from(Buffer.from(value, 'base64'))]))
