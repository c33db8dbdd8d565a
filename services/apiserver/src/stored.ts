/** One version of an object as the store has it, with everything derived from it made at most once. */
import type { KubeObject, ObjectMeta, OwnerReference } from '@capstan/api'
import type { KeyValue } from '@capstan/protocol'

export type { KubeObject, ObjectMeta, OwnerReference }

const METADATA = Buffer.from('"metadata":{')

/** One version of one object. `revision` is its resourceVersion. */
export class Stored {
  private parsed: KubeObject | undefined
  private spliced: Buffer | undefined
  /** Forms for other media types, made by their owners: see `table.ts`. */
  readonly forms = new Map<string, unknown>()

  constructor(
    readonly key: string,
    readonly revision: number,
    readonly createRevision: number,
    /** JSON of the storage version, without resourceVersion, apiVersion and kind before metadata. */
    readonly value: Uint8Array,
  ) {}

  static of(kv: KeyValue): Stored {
    return new Stored(Buffer.from(kv.key).toString(), kv.modRevision, kv.createRevision, kv.value)
  }

  /** The same object as of another revision (that of its deletion). */
  at(revision: number): Stored {
    return new Stored(this.key, revision, this.createRevision, this.value)
  }

  /** With resourceVersion. Shared: don't change it. */
  get object(): KubeObject {
    if (!this.parsed) {
      this.parsed = JSON.parse(Buffer.from(this.value).toString()) as KubeObject
      this.parsed.metadata.resourceVersion = String(this.revision)
    }
    return this.parsed
  }

  /** One's own, to change. */
  copy(): KubeObject {
    const object = JSON.parse(Buffer.from(this.value).toString()) as KubeObject
    object.metadata.resourceVersion = String(this.revision)
    return object
  }

  /** JSON text with the resourceVersion spliced in. */
  get json(): Buffer {
    if (!this.spliced) {
      const value = Buffer.from(this.value.buffer, this.value.byteOffset, this.value.byteLength)
      const at = value.indexOf(METADATA)
      if (at < 0) throw new Error(`stored object ${this.key} has no metadata`)
      const cut = at + METADATA.length
      const version = Buffer.from(`"resourceVersion":"${this.revision}",`)
      this.spliced = Buffer.concat([value.subarray(0, cut), version, value.subarray(cut)])
    }
    return this.spliced
  }
}

/** The bytes that go to the store: apiVersion and kind first, then metadata without resourceVersion, then the rest. */
export function storageBytes(object: KubeObject): Uint8Array {
  const { apiVersion, kind, metadata, ...rest } = object
  const { resourceVersion: _, selfLink: __, ...meta } = metadata
  return Buffer.from(JSON.stringify({ apiVersion, kind, metadata: meta, ...rest }))
}
