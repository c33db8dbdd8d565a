import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { AttemptLimit } from './attempt-limit.js'
import { makeBusKeys } from './identities.js'
import { type JoinRequest, parseJoinRequest, parseRenewRequest } from './join-messages.js'
import { parseToken, parseTtlMs, refusalOf } from './join-tokens.js'
import { MASTER_PORTS, nameFault } from './machine-file.js'

/** Keys are made once: each takes milliseconds. */
const KEYS = {
  master: makeBusKeys('master', 'n1.example').publicKeys,
  node: makeBusKeys('node', 'n1.example').publicKeys,
}

const good = (role: 'master' | 'node'): JoinRequest => ({
  token: 'abcdef.0123456789abcdef',
  role,
  name: 'n1.example',
  address: '10.0.0.1',
  request: '-----BEGIN CERTIFICATE REQUEST-----',
  busKeys: KEYS[role],
  ...(role === 'master' ? { ports: MASTER_PORTS } : {}),
})

test('whatever a stranger sends is either a request or told what is wrong with it', () => {
  const mustBeTold = (work: () => unknown) => {
    try {
      work()
    } catch (error) {
      assert.ok(error instanceof RangeError, String(error))
      assert.ok(error.message.length < 400, error.message)
    }
  }
  fc.assert(
    fc.property(fc.jsonValue(), (body) => {
      mustBeTold(() => parseJoinRequest(body))
      mustBeTold(() => parseRenewRequest(body))
    }),
    { numRuns: 300 },
  )
  const fields = Object.keys(good('master')) as (keyof JoinRequest)[]
  fc.assert(
    fc.property(fc.constantFrom(...fields), fc.jsonValue(), (field, value) =>
      mustBeTold(() => parseJoinRequest({ ...good('master'), [field]: value })),
    ),
    { numRuns: 300 },
  )
  for (const role of ['master', 'node'] as const) {
    const parsed = parseJoinRequest({ ...good(role), more: 'than asked for', __proto__: null })
    assert.deepEqual(parsed, good(role))
  }
})

test('only keys of the identities that a role has are taken', () => {
  const { busKeys } = good('node')
  const { busKeys: kept } = parseJoinRequest({
    ...good('node'),
    busKeys: { ...busKeys, 'admin~n1': busKeys['kubelet~n1'] },
  })
  assert.ok(!Object.keys(kept).some((token) => token.startsWith('admin')))
})

test('names are those of Kubernetes', () => {
  for (const name of ['a', 'n-1', 'a.b-c.d0', 'x'.repeat(63)]) assert.equal(nameFault(name), undefined, name)
  for (const name of ['', 'A', 'a_b', '-a', 'a-', 'a..b', '.a', 'a/b', 'a b', 'ä', 'x'.repeat(201)])
    assert.ok(nameFault(name), name)
})

test('times to live and tokens are what kubeadm takes', () => {
  assert.equal(parseTtlMs('24h'), 86_400_000)
  assert.equal(parseTtlMs('1h30m5s'), 5_405_000)
  assert.equal(parseTtlMs('0'), undefined)
  for (const text of ['', '24', '1d', '-1h', '1.5h', 'h', '99999999999h'])
    assert.throws(() => parseTtlMs(text), RangeError)
  assert.deepEqual(parseToken('abcdef.0123456789abcdef'), { id: 'abcdef', secret: '0123456789abcdef' })
  for (const text of [
    'abcdef.0123456789abcde',
    'ABCDEF.0123456789abcdef',
    'abcdef0123456789abcdef',
    ' abcdef.0123456789abcdef',
  ])
    assert.equal(parseToken(text), undefined, text)
})

test('the last moment of a token is its last', () => {
  const token = { id: 'abcdef', secret: '0123456789abcdef', role: 'node', expiresMs: 1000 } as const
  assert.equal(refusalOf(token, 'node', 999), undefined)
  assert.match(refusalOf(token, 'node', 1000) ?? '', /expired/)
  assert.match(refusalOf({ ...token, usesLeft: 0 }, 'node', 0) ?? '', /used up/)
  assert.match(refusalOf(token, 'master', 0) ?? '', /for a node, not for a master/)
})

test('attempts are counted for each address and for all, a minute long', () => {
  const limit = new AttemptLimit()
  for (let i = 0; i < 9; i++) limit.count('a', 60_000)
  assert.ok(!limit.isExhausted('a', 60_001))
  limit.count('a', 60_001)
  assert.ok(limit.isExhausted('a', 60_002))
  assert.ok(!limit.isExhausted('b', 60_002))
  for (let i = 0; i < 300; i++) limit.count(`c${i}`, 60_003)
  assert.ok(limit.isExhausted('b', 60_004), 'many addresses are one search')
  assert.ok(!limit.isExhausted('a', 121_000))
})
