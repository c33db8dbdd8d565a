import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { parseQuantity, Quantity, QuantityError } from './quantity.js'

describe('canonical form', () => {
  const table: Record<string, string> = {
    '0': '0',
    '0.0': '0',
    '-0': '0',
    '1': '1',
    '+5': '5',
    '100m': '100m',
    '0.1': '100m',
    '.5': '500m',
    '1.': '1',
    '1000m': '1',
    '1500m': '1500m',
    '1.5': '1500m',
    '1k': '1k',
    '1000': '1k',
    '1001': '1001',
    '1000k': '1M',
    '1e3': '1e3',
    '1E3': '1e3',
    '12e4': '120e3',
    '5e-4': '500e-6',
    '1E': '1E',
    '1Ki': '1Ki',
    '1024Ki': '1Mi',
    '1Gi': '1Gi',
    '0.5Gi': '512Mi',
    '1.5Ki': '1536',
    '512Ki': '512Ki',
    '0.1Ki': '102400m',
    '-1Gi': '-1Gi',
    '-250m': '-250m',
    '1n': '1n',
    '0.0000000001': '1n',
    '16393244Ki': '16393244Ki',
    '9223372036854775807': '9223372036854775807',
    '1e30': '9223372036854775807',
    '100Ei': '9223372036854775807',
  }
  for (const [text, canonical] of Object.entries(table))
    test(`${text} is ${canonical}`, () => assert.equal(parseQuantity(text).toString(), canonical))
})

describe('what is none', () => {
  for (const text of [
    '',
    ' ',
    '.',
    'm',
    'abc',
    '1 Gi',
    '1gi',
    '1KiB',
    '1e',
    '1e3m',
    '1,5',
    '0x10',
    '--1',
    'NaN',
    '1'.repeat(61),
    '1e9999',
  ])
    test(JSON.stringify(text), () => assert.throws(() => parseQuantity(text), QuantityError))
})

describe('arithmetic is exact', () => {
  test('a tenth, ten times', () => {
    let sum = parseQuantity('0')
    for (let i = 0; i < 10; i++) sum = sum.add(parseQuantity('0.1'))
    assert.equal(sum.toString(), '1')
  })
  test('the form of the first that is not zero is kept', () => {
    assert.equal(parseQuantity('0').add(parseQuantity('1Gi')).toString(), '1Gi')
    assert.equal(parseQuantity('1Gi').add(parseQuantity('1M')).toString(), '1074741824')
    assert.equal(parseQuantity('2').subtract(parseQuantity('500m')).toString(), '1500m')
  })
  test('rounded up to whole millis and units', () => {
    assert.equal(parseQuantity('1.0001').milli(), 1001)
    assert.equal(parseQuantity('100m').ceil(), 1)
    assert.equal(parseQuantity('-100m').ceil(), 0)
    assert.equal(parseQuantity('1Gi').ceil(), 2 ** 30)
  })
})

describe('properties', () => {
  const suffix = fc.constantFrom('', 'n', 'u', 'm', 'k', 'M', 'G', 'T', 'P', 'Ki', 'Mi', 'Gi', 'Ti', 'e3', 'e-2', 'E6')
  const text = fc
    .tuple(fc.constantFrom('', '-', '+'), fc.nat(99_999), fc.option(fc.nat(999)), suffix)
    .map(([sign, whole, fraction, unit]) => `${sign}${whole}${fraction === null ? '' : `.${fraction}`}${unit}`)

  test('printed and read again it is the same, and printing is stable', () => {
    fc.assert(
      fc.property(text, (given) => {
        const quantity = parseQuantity(given)
        const again = parseQuantity(quantity.toString())
        assert.equal(again.nanos, quantity.nanos)
        assert.equal(again.toString(), quantity.toString())
      }),
    )
  })
  test('the order is that of the numbers; adding and subtracting undo each other', () => {
    fc.assert(
      fc.property(text, text, (a, b) => {
        const [x, y] = [parseQuantity(a), parseQuantity(b)]
        assert.equal(x.compare(y), x.nanos < y.nanos ? -1 : x.nanos > y.nanos ? 1 : 0)
        assert.equal(y.compare(x) + x.compare(y), 0)
        assert.equal(x.add(y).subtract(y).compare(x), 0)
        assert.equal(x.add(y).compare(y.add(x)), 0)
      }),
    )
  })
  test('against plain arithmetic on thousandths', () => {
    fc.assert(fc.property(fc.integer(), (milli) => assert.equal(parseQuantity(`${milli}m`).milli(), milli)))
    fc.assert(
      fc.property(fc.bigInt({ min: -(10n ** 27n), max: 10n ** 27n }), (nanos) =>
        assert.equal(parseQuantity(new Quantity(nanos).toString()).nanos, nanos),
      ),
    )
  })
  test('any text is a quantity or a QuantityError', () => {
    const letters = fc.string({ unit: fc.constantFrom(...'0123456789.eE+-kMGTPinum '), maxLength: 12 })
    fc.assert(
      fc.property(letters, (given) => {
        try {
          parseQuantity(given)
        } catch (error) {
          assert.ok(error instanceof QuantityError)
        }
      }),
    )
  })
})
