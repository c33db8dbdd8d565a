import assert from 'node:assert/strict'
import { isIP as isIPOfNode } from 'node:net'
import { test } from 'node:test'
import fc from 'fast-check'
import { isIP, isIPv4, isIPv6, networksOverlap, networkWithin, parseIpv4Network } from './ip.js'

test('addresses', () => {
  for (const text of ['0.0.0.0', '10.9.8.7', '255.255.255.255']) assert.ok(isIPv4(text), text)
  for (const text of ['', '1.2.3', '1.2.3.4.', '1.2.3.4.5', '256.1.1.1', '01.2.3.4', '1.2.3.4 ', 'a'])
    assert.ok(!isIP(text), text)
  for (const text of ['::', '::1', '2001:db8::ffff', '1:2:3:4:5:6:7:8', '::ffff:10.0.0.1'])
    assert.ok(isIPv6(text), text)
  for (const text of [
    ':',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '12345::',
    'fe80::1%eth0',
    '1.2.3.4::',
  ])
    assert.ok(!isIP(text), text)
})

test('as Node reads them', () => {
  const text = fc
    .array(fc.constantFrom(':', '::', '.', '0', '1', 'ff', '255', '10.0.0.1', 'fffff', 'g'), { maxLength: 12 })
    .map((parts) => parts.join(''))
  fc.assert(
    fc.property(fc.oneof(text, fc.ipV4(), fc.ipV6()), (given) =>
      assert.equal(isIP(given), isIPOfNode(given) !== 0, given),
    ),
    { numRuns: 2000 },
  )
})

test('networks', () => {
  const network = (text: string) => {
    const found = parseIpv4Network(text)
    assert.ok(found, text)
    return found
  }
  assert.deepEqual(network('10.244.1.7/24'), network('10.244.1.0/24'))
  assert.deepEqual(network('0.0.0.0/0'), { base: 0, size: 2 ** 32 })
  for (const bad of ['', '10.0.0.0', '10.0.0.0/33', '10.0.0.0/08', '10.0.0/8', '10.0.0.0/8/8', 'fd00::/64'])
    assert.equal(parseIpv4Network(bad), undefined, bad)
  assert.ok(networkWithin(network('10.244.255.0/24'), network('10.244.0.0/16')))
  assert.ok(!networkWithin(network('10.245.0.0/24'), network('10.244.0.0/16')))
  assert.ok(!networkWithin(network('10.0.0.0/8'), network('10.244.0.0/16')))
  assert.ok(networksOverlap(network('10.0.0.0/8'), network('10.244.0.0/16')))
  assert.ok(!networksOverlap(network('10.244.0.0/24'), network('10.244.1.0/24')))
})
