import assert from 'node:assert/strict'
import { test } from 'node:test'
import { between, bridged, isolated, type Link, planFleet, ring } from './plan.js'

const text = (links: Link[]) =>
  links
    .map(([from, to]) => `${from}>${to}`)
    .sort()
    .join(' ')
const FIVE = ['a', 'b', 'c', 'd', 'e']

test('names and addresses follow from slot and order', () => {
  const plan = planFleet({ directory: '/d', machines: [{ name: 'master-0' }, { name: 'node-0', zone: 'b' }] }, 3)
  assert.deepEqual(
    plan.machines.map((m) => [m.name, m.zone, m.address, m.mac]),
    [
      ['master-0', 'a', '10.90.3.11', '02:cf:00:03:00:0b'],
      ['node-0', 'b', '10.90.3.12', '02:cf:00:03:00:0c'],
    ],
  )
})

test('what is no fleet is refused with its reason', () => {
  const plan = (...names: string[]) => planFleet({ directory: '/d', machines: names.map((name) => ({ name })) }, 0)
  assert.throws(() => plan(), /at least one/)
  assert.throws(() => plan('a', 'a'), /two machines are named a/)
  assert.throws(() => plan('../x'), /no name for a machine/)
  assert.throws(() => plan('host'), /means the host itself/)
})

test('shapes of partitions', () => {
  assert.equal(text(isolated('a', ['a', 'b', 'c'])), 'a>b a>c b>a c>a')
  assert.equal(text(between(['a', 'b'], ['c'])), 'a>c b>c c>a c>b')
  // The bridge sees both halves, which do not see each other.
  assert.equal(text(bridged('c', ['a', 'c'], ['c', 'd'])), 'a>d d>a')
  assert.equal(ring(['a', 'b', 'c']).length, 0)
  const cut = ring(FIVE)
  for (const name of FIVE) assert.equal(cut.filter(([from]) => from === name).length, 2, `${name} keeps two neighbours`)
})
