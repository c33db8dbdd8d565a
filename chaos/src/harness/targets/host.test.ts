import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { isSandboxProcess } from './host-edge.js'

const SCRIPT = join(import.meta.dirname, '../../../../scripts/build-images.mjs')

test('what the pause image runs is a sandbox, and no life of a pod', () => {
  const pause = readFileSync(SCRIPT, 'utf8').split('pause: [')[1] ?? ''
  const entry = /Entrypoint: \[([^\]]*)\]/.exec(pause)?.[1] ?? ''
  const words = [...entry.matchAll(/'([^']*)'/g)].map(([, word = '']) => word)
  assert.ok(words.length > 2, `the entry point of the pause image: ${entry}`)
  const commandLine = (some: string[]) => some.map((word) => `${word}\0`).join('')
  assert.ok(isSandboxProcess(commandLine(words)))
  assert.ok(isSandboxProcess(commandLine(words.slice(words.indexOf('--') + 1))), 'its child, when tini is gone')
  assert.ok(isSandboxProcess(commandLine(['/pause'])), 'of Kubernetes')
  assert.ok(!isSandboxProcess(commandLine(['/bin/sleep', '1000000'])))
  assert.ok(!isSandboxProcess(commandLine(['sleep', '2147483647'])))
})
