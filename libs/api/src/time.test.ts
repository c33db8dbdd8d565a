import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatAge, formatDuration, formatMicroTime, formatTime } from './time.js'

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

test('durations as kubectl prints them', () => {
  const table: [number, string][] = [
    [-5 * SECOND, '<invalid>'],
    [-500, '0s'],
    [0, '0s'],
    [119 * SECOND, '119s'],
    [120 * SECOND, '2m'],
    [5 * MINUTE + 30 * SECOND, '5m30s'],
    [10 * MINUTE + 30 * SECOND, '10m'],
    [179 * MINUTE, '179m'],
    [3 * HOUR, '3h'],
    [7 * HOUR + 59 * MINUTE, '7h59m'],
    [8 * HOUR + 59 * MINUTE, '8h'],
    [47 * HOUR, '47h'],
    [48 * HOUR, '2d'],
    [3 * DAY + 5 * HOUR, '3d5h'],
    [8 * DAY + 5 * HOUR, '8d'],
    [729 * DAY, '729d'],
    [730 * DAY, '2y'],
    [3 * 365 * DAY + 10 * DAY, '3y10d'],
    [8 * 365 * DAY + 10 * DAY, '8y'],
  ]
  for (const [ms, text] of table) assert.equal(formatDuration(ms), text)
})

test('ages', () => {
  const now = Date.parse('2026-01-01T00:05:30Z')
  assert.equal(formatAge('2026-01-01T00:00:00Z', now), '5m30s')
  for (const nothing of [undefined, null, '', 'today', 5]) assert.equal(formatAge(nothing, now), '<unknown>')
})

test('times', () => {
  assert.equal(formatTime(1_767_225_600_999), '2026-01-01T00:00:00Z')
  assert.equal(formatMicroTime(1_767_225_600_999), '2026-01-01T00:00:00.999000Z')
})
