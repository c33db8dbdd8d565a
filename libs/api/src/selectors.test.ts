import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { selectorText } from './kinds/define.js'
import { labelSelectorMatcher, parseFieldSelector, parseLabelSelector, SelectorError } from './selectors.js'

describe('label selectors as text', () => {
  const labels = { app: 'web', tier: 'front', 'example.com/zone': 'a', size: '10', empty: '' }
  const fits: Record<string, boolean> = {
    '': true,
    'app=web': true,
    'app==web': true,
    'app = web': true,
    'app=db': false,
    'app!=db': true,
    'app!=web': false,
    'none!=x': true,
    app: true,
    none: false,
    '!none': true,
    '! app': false,
    'app in (web, db)': true,
    'app in (db)': false,
    'app in(web)': true,
    'app notin (db)': true,
    'none notin (db)': true,
    'app notin (web,db)': false,
    'app=web,tier=front': true,
    'app=web,tier=back': false,
    'app in (web,db),tier,!none': true,
    'example.com/zone=a': true,
    'empty=': true,
    'none=': false,
    'size>9': true,
    'size>10': false,
    'size<11': true,
    'app>1': false,
    'empty>-1': false,
    'none<1': false,
  }
  for (const [text, expected] of Object.entries(fits))
    test(`${JSON.stringify(text)} ${expected ? 'fits' : 'does not'}`, () =>
      assert.equal(parseLabelSelector(text)(labels), expected))

  test('no labels are an empty map', () => {
    assert.equal(parseLabelSelector('!app')(undefined), true)
    assert.equal(parseLabelSelector('app')(undefined), false)
    assert.equal(parseLabelSelector('constructor')({}), false)
  })

  for (const text of [
    '=',
    '=x',
    'a=b=c',
    'a in',
    'a in b',
    'a in (b',
    'a in b)',
    ')a(',
    'a b',
    'a=b,',
    ',a',
    'a,,b',
    '!!a',
    'a!b',
    'a=b c',
    'a=-x',
    'a>x',
    'a>1.5',
    `a=${'x'.repeat(64)}`,
    '-a=b',
    'x/y/z=1',
    'a in (b c)',
  ])
    test(`${JSON.stringify(text.slice(0, 20))} is refused`, () =>
      assert.throws(
        () => parseLabelSelector(text),
        (error) => error instanceof SelectorError && error.message.startsWith('unable to parse requirement'),
      ))

  test('any text is a selector or a SelectorError', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom(...'ab/.-_=!<>(), 1', ' in ', ' notin '), maxLength: 15 }),
        (text) => {
          try {
            parseLabelSelector(text)({ a: 'b' })
          } catch (error) {
            assert.ok(error instanceof SelectorError, String(error))
          }
        },
      ),
    )
  })
})

describe('label selectors as objects', () => {
  test('missing: nothing; empty: everything', () => {
    assert.equal(labelSelectorMatcher(undefined)({ a: 'b' }), false)
    assert.equal(labelSelectorMatcher(null)({}), false)
    assert.equal(labelSelectorMatcher({})({ a: 'b' }), true)
  })
  test('all of it must fit', () => {
    const selector = {
      matchLabels: { app: 'web' },
      matchExpressions: [
        { key: 'tier', operator: 'In', values: ['front', 'edge'] },
        { key: 'old', operator: 'DoesNotExist' },
        { key: 'zone', operator: 'NotIn', values: ['z'] },
      ],
    }
    const fits = labelSelectorMatcher(selector)
    assert.equal(fits({ app: 'web', tier: 'edge' }), true)
    assert.equal(fits({ app: 'web', tier: 'edge', old: '' }), false)
    assert.equal(fits({ app: 'web', tier: 'edge', zone: 'z' }), false)
    assert.equal(fits({ app: 'web' }), false)
  })
  test('as text they say the same', () => {
    const key = fc.constantFrom('a', 'b', 'c/d')
    const value = fc.constantFrom('', 'x', 'y')
    const values = fc.array(value, { minLength: 1, maxLength: 3 })
    const expression = fc.oneof(
      fc.record({ key, operator: fc.constantFrom('In', 'NotIn'), values }),
      fc.record({ key, operator: fc.constantFrom('Exists', 'DoesNotExist') }),
    )
    const selector = fc.record({
      matchLabels: fc.dictionary(key, value),
      matchExpressions: fc.array(expression, { maxLength: 3 }),
    })
    fc.assert(
      fc.property(selector, fc.dictionary(key, value), (given, labels) =>
        assert.equal(
          parseLabelSelector(selectorText(given))(labels),
          labelSelectorMatcher(given)(labels),
          selectorText(given),
        ),
      ),
    )
  })
  test('their text is in order of keys', () =>
    assert.equal(
      selectorText({
        matchLabels: { b: '1', a: '2' },
        matchExpressions: [
          { key: 'aa', operator: 'DoesNotExist' },
          { key: 'c', operator: 'In', values: ['y', 'x'] },
        ],
      }),
      'a=2,!aa,b=1,c in (x,y)',
    ))
})

describe('field selectors', () => {
  test('are read', () => {
    assert.deepEqual(parseFieldSelector(''), [])
    assert.deepEqual(parseFieldSelector('spec.nodeName=n1,status.phase!=Running,a==b'), [
      { path: 'spec.nodeName', equal: true, value: 'n1' },
      { path: 'status.phase', equal: false, value: 'Running' },
      { path: 'a', equal: true, value: 'b' },
    ])
    assert.deepEqual(parseFieldSelector('spec.nodeName='), [{ path: 'spec.nodeName', equal: true, value: '' }])
  })
  test('or refused', () =>
    assert.throws(() => parseFieldSelector('spec.nodeName'), {
      name: 'SelectorError',
      message: "invalid selector: 'spec.nodeName'; can't understand 'spec.nodeName'",
    }))
})
