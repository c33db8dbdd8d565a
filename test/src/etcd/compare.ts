import type { Json } from './grpc-client.js'

/**
 * What may differ between two stores that behave the same: who they are, their terms and how much time a lease has left.
 * `theirs` is etcd's: a header that it leaves out, or a revision in it, we may state.
 */
export function comparable(ours: Json, theirs: Json): [Json, Json] {
  return [strip(ours, theirs), strip(theirs, theirs)]
}

function strip(value: Json, theirs: Json): Json {
  if (Buffer.isBuffer(value)) return value.toString('latin1')
  if (Array.isArray(value)) return value.map((one, at) => strip(one, theirs?.[at]))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).flatMap(([name, one]) => {
      if (name === 'header') return [[name, stripHeader(one, theirs?.[name])]]
      return [[name, strip(one, theirs?.[name])]]
    }),
  )
}

function stripHeader(header: Json, theirs: Json): Json {
  if (!theirs || theirs.revision === '0') return 'not compared'
  return header && { revision: header.revision }
}
