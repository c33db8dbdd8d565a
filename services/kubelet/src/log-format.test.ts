import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { concat, formatLogRecord, LineSplitter, LogPrinter, parseLogRecord, tailOffset } from './log-format.js'

const bytes = (text: string) => new TextEncoder().encode(text)
const text = (data: Uint8Array) => new TextDecoder().decode(data)
const TIME = '2030-01-01T00:00:0'

/** Lines as a runtime would write them, long ones in pieces. */
function logFile(lines: string[], pieceBytes: number): Uint8Array {
  const parts: Uint8Array[] = []
  for (const [at, line] of lines.entries()) {
    const whole = bytes(line)
    const pieces = Math.max(1, Math.ceil(whole.length / pieceBytes))
    for (let piece = 0; piece < pieces; piece++)
      parts.push(
        formatLogRecord(
          `${TIME}${at % 10}.000000000Z`,
          'stdout',
          piece < pieces - 1,
          whole.subarray(piece * pieceBytes, (piece + 1) * pieceBytes),
        ),
      )
  }
  return concat([new Uint8Array(), ...parts])
}

function print(
  file: Uint8Array,
  selection: Partial<ConstructorParameters<typeof LogPrinter>[0]> = {},
  chunkBytes = 7,
): string {
  const printer = new LogPrinter({ timestamps: false, since: undefined, limitBytes: undefined, ...selection })
  const splitter = new LineSplitter()
  const out: Uint8Array[] = [new Uint8Array()]
  for (let at = 0; at < file.length; at += chunkBytes)
    splitter.push(file.subarray(at, at + chunkBytes), (line) => {
      const record = parseLogRecord(line)
      if (record) out.push(printer.print(record))
    })
  return text(concat(out))
}

const line = fc.string({ maxLength: 40 }).map((one) => one.replace(/[\n\r]/g, ' '))

describe('logs', () => {
  test('what was written is what is printed, however it is cut', () => {
    fc.assert(
      fc.property(
        fc.array(line),
        fc.integer({ min: 1, max: 20 }),
        fc.integer({ min: 1, max: 50 }),
        (lines, pieceBytes, chunkBytes) => {
          assert.equal(print(logFile(lines, pieceBytes), {}, chunkBytes), lines.map((one) => `${one}\n`).join(''))
        },
      ),
    )
  })

  test('the last n lines, against a dumb twin', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(line, { maxLength: 30 }),
        fc.integer({ min: 0, max: 35 }),
        fc.integer({ min: 1, max: 20 }),
        fc.integer({ min: 1, max: 200 }),
        async (lines, count, pieceBytes, blockBytes) => {
          const file = logFile(lines, pieceBytes)
          const from = await tailOffset(
            async (at, length) => file.slice(at, at + length),
            file.length,
            count,
            blockBytes,
          )
          const expected = (count === 0 ? [] : lines.slice(-count)).map((one) => `${one}\n`).join('')
          assert.equal(print(file.subarray(from)), expected)
        },
      ),
      { numRuns: 500 },
    )
  })

  test('times, a moment to begin at, a limit', () => {
    const file = logFile(['zero', 'one', 'two'], 2)
    assert.equal(print(file, { timestamps: true }).split('\n')[1], `${TIME}1.000000000Z one`)
    assert.equal(print(file, { since: `${TIME}1Z` }), 'one\ntwo\n')
    assert.equal(print(file, { limitBytes: 6 }), 'zero\no')
  })

  test('garbage is left out', () => {
    assert.equal(print(bytes('no record\n\n x\n')), '')
    fc.assert(fc.property(fc.uint8Array(), (data) => void print(data)))
  })
})
