/** Objects and lists as bytes, in the media type that the client asked for. */
import type { Kind } from './kinds.js'
import type { Media } from './options.js'
import type { Stored } from './stored.js'

export interface Form {
  media: Media
  include: 'None' | 'Metadata' | 'Object'
  kind: Kind
  /** For ages in tables. */
  nowMs: number
  /** Of a watch's tables: only the first one says what the columns are. Default true. */
  headers?: boolean
}

interface ListMeta {
  continue?: string
  remainingItemCount?: number
}

const COMMA = Buffer.from(',')
const END = Buffer.from(']}')

export function renderObject(form: Form, stored: Stored): Uint8Array {
  switch (form.media) {
    case 'json':
      return stored.json
    case 'partial':
      return partialOf(stored)
    case 'table':
      return Buffer.from(
        JSON.stringify({
          ...tableHead(form, { resourceVersion: String(stored.revision) }),
          rows: [rowOf(form, stored)],
        }),
      )
  }
}

/** A list as of `revision`. */
export function renderList(form: Form, items: readonly Stored[], revision: number, more: ListMeta): Uint8Array {
  const metadata = { resourceVersion: String(revision), ...more }
  const { kind } = form
  switch (form.media) {
    case 'table':
      return Buffer.from(
        JSON.stringify({ ...tableHead(form, metadata), rows: items.map((stored) => rowOf(form, stored)) }),
      )
    case 'partial':
      return join({ kind: 'PartialObjectMetadataList', apiVersion: 'meta.k8s.io/v1', metadata }, items.map(partialOf))
    case 'json':
      return join(
        { kind: `${kind.kind}List`, apiVersion: apiVersionOf(kind), metadata },
        items.map((stored) => stored.json),
      )
  }
}

/** An object that only says where a watch stands. */
export function bookmarkOf(form: Form, revision: number, annotations?: Record<string, string>): Uint8Array {
  const metadata = {
    resourceVersion: String(revision),
    creationTimestamp: null,
    ...(annotations ? { annotations } : {}),
  }
  const { kind } = form
  if (form.media === 'table') {
    const object = { kind: 'PartialObjectMetadata', apiVersion: 'meta.k8s.io/v1', metadata }
    return Buffer.from(
      JSON.stringify({
        ...tableHead({ ...form, headers: false }, { resourceVersion: String(revision) }),
        rows: [{ cells: [], object }],
      }),
    )
  }
  if (form.media === 'partial')
    return Buffer.from(JSON.stringify({ kind: 'PartialObjectMetadata', apiVersion: 'meta.k8s.io/v1', metadata }))
  return Buffer.from(JSON.stringify({ kind: kind.kind, apiVersion: apiVersionOf(kind), metadata }))
}

export const apiVersionOf = (kind: Pick<Kind, 'group' | 'version'>): string =>
  kind.group === '' ? kind.version : `${kind.group}/${kind.version}`

function join(head: object, items: readonly Uint8Array[]): Uint8Array {
  const parts: Uint8Array[] = [Buffer.from(`${JSON.stringify(head).slice(0, -1)},"items":[`)]
  items.forEach((item, at) => {
    if (at > 0) parts.push(COMMA)
    parts.push(item)
  })
  parts.push(END)
  return Buffer.concat(parts)
}

function partialOf(stored: Stored): Uint8Array {
  const made = stored.forms.get('partial') as Uint8Array | undefined
  if (made) return made
  const { metadata } = stored.object
  const bytes = Buffer.from(JSON.stringify({ kind: 'PartialObjectMetadata', apiVersion: 'meta.k8s.io/v1', metadata }))
  stored.forms.set('partial', bytes)
  return bytes
}

function tableHead(form: Form, metadata: object): object {
  const columnDefinitions = form.headers === false ? null : form.kind.columns
  return { kind: 'Table', apiVersion: 'meta.k8s.io/v1', metadata, columnDefinitions }
}

function rowOf(form: Form, stored: Stored): object {
  // Not kept: ages go on.
  const row = { cells: form.kind.cells(stored.object, form.nowMs), ...form.kind.rowConditions?.(stored.object) }
  switch (form.include) {
    case 'None':
      return row
    case 'Object':
      return { ...row, object: stored.object }
    case 'Metadata':
      return {
        ...row,
        object: { kind: 'PartialObjectMetadata', apiVersion: 'meta.k8s.io/v1', metadata: stored.object.metadata },
      }
  }
}
