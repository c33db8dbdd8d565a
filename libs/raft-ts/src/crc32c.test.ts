import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { crc32c } from './crc32c.js'

/** Bit by bit, as RFC 3720 appendix B.4 says. */
function plain(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  return ~crc >>> 0
}

test('crc32c is what going bit by bit gives, in one piece or several', () => {
  assert.equal(crc32c(new TextEncoder().encode('123456789')), 0xe3069283)
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 70 }), fc.nat(70), fc.nat(70), (bytes, one, other) => {
      assert.equal(crc32c(bytes), plain(bytes))
      const [from, to] = [Math.min(one, other, bytes.length), Math.min(Math.max(one, other), bytes.length)]
      assert.equal(crc32c(bytes, 0, from, to), plain(bytes.subarray(from, to)))
      assert.equal(crc32c(bytes, crc32c(bytes, 0, 0, from), from), plain(bytes))
    }),
  )
})
