/** A resource quantity, exact (Kubernetes resource.Quantity): a whole number of nano-units. */
export class Quantity {
  constructor(
    readonly nanos: bigint,
    /** How it was written: decides how it is printed. */
    readonly format: 'decimal' | 'binary' | 'exponent' = 'decimal',
  ) {}

  /** In thousandths, rounded up: millicores. */
  milli(): number {
    return Number(ceilDivide(this.nanos, MILLI))
  }

  /** In whole units, rounded up: bytes. */
  ceil(): number {
    return Number(ceilDivide(this.nanos, UNIT))
  }

  add(other: Quantity): Quantity {
    return new Quantity(this.nanos + other.nanos, this.nanos === 0n ? other.format : this.format)
  }

  subtract(other: Quantity): Quantity {
    return new Quantity(this.nanos - other.nanos, this.format)
  }

  compare(other: Quantity): -1 | 0 | 1 {
    return this.nanos < other.nanos ? -1 : this.nanos > other.nanos ? 1 : 0
  }

  /** The canonical form: no fraction, the largest suffix that allows it. */
  toString(): string {
    const sign = this.nanos < 0n ? '-' : ''
    const nanos = this.nanos < 0n ? -this.nanos : this.nanos
    if (nanos === 0n) return '0'
    if (this.format === 'binary' && nanos % UNIT === 0n && nanos >= 1024n * UNIT) {
      const units = nanos / UNIT
      for (const [suffix, factor] of BINARY_DOWN) if (units % factor === 0n) return `${sign}${units / factor}${suffix}`
      return `${sign}${units}`
    }
    for (const [suffix, factor, exponent] of DECIMAL_DOWN)
      if (nanos % factor === 0n)
        return `${sign}${nanos / factor}${this.format === 'exponent' && exponent !== 0 ? `e${exponent}` : suffix}`
    return `${sign}${nanos}n`
  }
}

export class QuantityError extends Error {
  override readonly name = 'QuantityError'
}

const UNIT = 1_000_000_000n
const MILLI = 1_000_000n
const BINARY = {
  Ki: 1024n,
  Mi: 1024n ** 2n,
  Gi: 1024n ** 3n,
  Ti: 1024n ** 4n,
  Pi: 1024n ** 5n,
  Ei: 1024n ** 6n,
} as const
const BINARY_DOWN = Object.entries(BINARY).toReversed()
/** Suffix, nano-units, exponent. */
const DECIMAL: [string, bigint, number][] = [
  ['n', 1n, -9],
  ['u', 1000n, -6],
  ['m', MILLI, -3],
  ['', UNIT, 0],
  ['k', UNIT * 10n ** 3n, 3],
  ['M', UNIT * 10n ** 6n, 6],
  ['G', UNIT * 10n ** 9n, 9],
  ['T', UNIT * 10n ** 12n, 12],
  ['P', UNIT * 10n ** 15n, 15],
  ['E', UNIT * 10n ** 18n, 18],
]
const DECIMAL_DOWN = DECIMAL.toReversed()
const SYNTAX = /^([+-]?)(\d*)(?:\.(\d*))?(?:([eE])([+-]?\d{1,3})|(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]))?$/
const DIGITS_MAX = 60
/** Kubernetes cuts what is larger than an int64 can hold. */
const NANOS_MAX = (2n ** 63n - 1n) * UNIT
export const QUANTITY_SYNTAX_MESSAGE =
  "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"

/** @throws QuantityError */
export function parseQuantity(text: string): Quantity {
  const match = SYNTAX.exec(text)
  const [, sign = '', whole = '', fraction = '', , exponent, suffix = ''] = match ?? []
  if (!match || whole.length + fraction.length === 0 || text.length > DIGITS_MAX)
    throw new QuantityError(QUANTITY_SYNTAX_MESSAGE)
  const digits = BigInt(whole + fraction)
  const scale = 10n ** BigInt(fraction.length)
  let nanos: bigint
  if (exponent !== undefined) {
    const power = Number(exponent)
    nanos =
      power >= 0
        ? ceilDivide(digits * UNIT * 10n ** BigInt(power), scale)
        : ceilDivide(digits * UNIT, scale * 10n ** BigInt(-power))
  } else {
    const factor =
      suffix in BINARY
        ? BINARY[suffix as keyof typeof BINARY] * UNIT
        : (DECIMAL.find(([name]) => name === suffix)?.[1] ?? UNIT)
    // Finer than a nano-unit is rounded up.
    nanos = ceilDivide(digits * factor, scale)
  }
  if (nanos > NANOS_MAX) nanos = NANOS_MAX
  return new Quantity(
    sign === '-' ? -nanos : nanos,
    suffix in BINARY ? 'binary' : exponent !== undefined ? 'exponent' : 'decimal',
  )
}

function ceilDivide(a: bigint, b: bigint): bigint {
  return a >= 0n ? (a + b - 1n) / b : a / b
}
