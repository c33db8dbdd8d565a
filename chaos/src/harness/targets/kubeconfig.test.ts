import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { readKubeconfig } from './kubeconfig-edge.js'

let directory: string
before(() => {
  directory = mkdtempSync(join(tmpdir(), 'kubeconfig-'))
})
after(() => rmSync(directory, { recursive: true, force: true }))

const written = (config: object) => {
  const file = join(directory, 'config')
  writeFileSync(file, JSON.stringify(config))
  return file
}
const base64 = (text: string) => Buffer.from(text).toString('base64')
const CONFIG = {
  'current-context': 'two',
  contexts: [
    { name: 'one', context: { cluster: 'a', user: 'x' } },
    { name: 'two', context: { cluster: 'b', user: 'y' } },
  ],
  clusters: [
    { name: 'a', cluster: { server: 'https://a:1' } },
    {
      name: 'b',
      cluster: { server: 'https://b:2', 'certificate-authority': 'ca.crt', 'tls-server-name': 'kubernetes' },
    },
  ],
  users: [
    { name: 'x', user: { token: 'secret' } },
    { name: 'y', user: { 'client-certificate-data': base64('CERT'), 'client-key-data': base64('KEY') } },
  ],
}

test('the current context says server and credentials; paths are beside the file', () => {
  writeFileSync(join(directory, 'ca.crt'), 'CA')
  assert.deepEqual(readKubeconfig(written(CONFIG)), {
    server: 'https://b:2',
    credentials: { ca: 'CA', cert: 'CERT', key: 'KEY', serverName: 'kubernetes' },
  })
  assert.deepEqual(readKubeconfig(written({ ...CONFIG, 'current-context': 'one' })), {
    server: 'https://a:1',
    credentials: { token: 'secret' },
  })
})

test('what it cannot use it refuses in words', () => {
  assert.throws(() => readKubeconfig(written({ ...CONFIG, 'current-context': 'three' })), /names no cluster and user/)
  const users = [{ name: 'y', user: { exec: { command: 'aws' } } }]
  assert.throws(() => readKubeconfig(written({ ...CONFIG, users })), /exec/)
})
