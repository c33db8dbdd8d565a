import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PageReader, pageSteps } from './page-steps.js'

test('a page is read as steps', () => {
  const page = [
    '# T',
    '```sh on=a,b',
    'one',
    'two',
    '```',
    '<!-- lost: b -->',
    '```',
    'read only',
    '```',
    '<!-- a mark -->',
  ]
  assert.deepEqual(pageSteps(page.join('\n')), [
    { kind: 'run', on: ['a', 'b'], script: 'one\ntwo\n', line: 2 },
    { kind: 'lost', machine: 'b', line: 6 },
    { kind: 'mark', text: 'a mark', line: 10 },
  ])
  assert.throws(() => pageSteps('```sh on=a\nls'), /line 1: a fence without end/)
})

test('the reader fills in tokens of the right kind, and addresses', () => {
  const reader = new PageReader(new Map([['10.0.0.1', '10.90.0.7']]))
  const script = 'capstan node join 10.0.0.1:9443 --token TOKEN --ca-cert-hash HASH --address 10.0.0.11\n'
  assert.throws(() => reader.fill(script), /token for a node/)
  reader.see('text\ncapstan node join h:1 --token a.b --ca-cert-hash sha256:ff --address X\n')
  assert.equal(
    reader.fill(script),
    'capstan node join 10.90.0.7:9443 --token a.b --ca-cert-hash sha256:ff --address 10.0.0.11\n',
  )
})
