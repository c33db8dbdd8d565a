import { Packr } from 'msgpackr'

// `useRecords: false`: plain msgpack maps that any peer reads. `copyBuffers`: decoded bytes must not alias the frame.
const packr = new Packr({ useRecords: false, copyBuffers: true, mapsAsObjects: true })

/** Thrown by `decode` for bytes that are no msgpack value. */
export class CodecError extends Error {
  override readonly name = 'CodecError'
}

/** One msgpack value. `undefined` members are left out. */
export function encode(value: unknown): Uint8Array {
  return packr.pack(value)
}

/**
 * The value in `bytes`. Objects come back as plain objects, bytes as `Uint8Array` of their own memory.
 * Says nothing about the shape: check what comes off the wire.
 * @throws CodecError for anything that is not exactly one msgpack value.
 */
export function decode(bytes: Uint8Array): unknown {
  let value: unknown
  try {
    value = packr.unpack(bytes)
  } catch (error) {
    throw new CodecError(`not a msgpack value: ${(error as Error).message}`, { cause: error })
  }
  // msgpackr gives an odd object instead of throwing for the one byte that msgpack never uses.
  if (bytes.length > 0 && bytes[0] === 0xc1) throw new CodecError('not a msgpack value: starts with byte 0xc1')
  return value
}
