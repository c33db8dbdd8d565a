import assert from 'node:assert/strict'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { RealHost } from './edge/index.js'
import { HostError } from './host.js'

describe('the machine', () => {
  const dir = mkdtempSync(join(tmpdir(), 'capstan-host-'))
  const host = new RealHost(dir)
  after(() => rmSync(dir, { recursive: true, force: true }))
  const file = (path: string, text: string, mode = 0o644) => ({ path, bytes: Buffer.from(text), mode })

  test('files of a volume are switched over together; the same again changes nothing', async () => {
    const volume = join(dir, 'pods/u/volumes/v')
    await host.writeFiles(volume, [file('a', '1'), file('deep/b', '2', 0o400)])
    assert.equal(readFileSync(join(volume, 'a'), 'utf8'), '1')
    assert.equal(statSync(join(volume, 'deep/b')).mode & 0o777, 0o400)
    const before = statSync(join(volume, 'a')).ino
    await host.writeFiles(volume, [file('a', '1'), file('deep/b', '2', 0o400)])
    assert.equal(statSync(join(volume, 'a')).ino, before)
    await host.writeFiles(volume, [file('c', '3')])
    assert.deepEqual(
      readdirSync(volume).filter((name) => !name.startsWith('..')),
      ['c'],
    )
    assert.equal(readdirSync(volume).filter((name) => name.startsWith('..')).length, 2)
    await assert.rejects(host.writeFiles(volume, [file('../x', '')]), HostError)
  })

  test('a subPath stays in its volume, whatever links lie there', async () => {
    const volume = join(dir, 'vol')
    const outside = join(dir, 'outside')
    for (const path of [volume, outside]) mkdirSync(path)
    symlinkSync(outside, join(volume, 'link'))
    assert.equal(await host.subPath(volume, 'a/b'), join(volume, 'a/b'))
    assert.ok(existsSync(join(volume, 'a/b')))
    await assert.rejects(host.subPath(volume, 'link/made'), HostError)
    await assert.rejects(host.subPath(volume, '../outside'), HostError)
    assert.deepEqual(readdirSync(outside), [])
  })

  test('hostPath types', async () => {
    await host.checkHostPath('/no/such/path', '')
    await assert.rejects(host.checkHostPath('/no/such/path', 'Directory'), HostError)
    await host.checkHostPath(join(dir, 'made/here'), 'DirectoryOrCreate')
    assert.ok(statSync(join(dir, 'made/here')).isDirectory())
  })

  test('what a pod had is found and removed', async () => {
    const pod = { namespace: 'ns', name: 'p', uid: 'u-1' }
    mkdirSync(host.logDirectory(pod), { recursive: true })
    writeFileSync(join(host.logDirectory(pod), 'x'), '')
    await host.makeDirectory(join(host.podDirectory('u-2'), 'volumes/e'), { mode: 0o777 })
    assert.deepEqual(await host.podDirectories(), ['u', 'u-1', 'u-2'])
    for (const uid of ['u', 'u-1', 'u-2']) {
      await host.removePodDirectory(uid)
      await host.removeLogs(uid)
    }
    assert.deepEqual(await host.podDirectories(), [])
  })

  test('probes over the network', async () => {
    const server = createServer((request, response) => {
      if (request.url === '/never') return
      response.writeHead(request.url === '/bad' ? 500 : 200).end('x'.repeat(100_000))
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    const get = (path: string, timeoutMs = 20_000) =>
      host.httpGet({ scheme: 'http', host: '127.0.0.1', port, path, headers: [] }, timeoutMs)
    try {
      assert.equal((await get('/')).ok, true)
      assert.deepEqual(await get('/bad'), { ok: false, message: 'HTTP probe failed with statuscode: 500' })
      assert.match((await get('/never', 300)).message, /no answer within 300 ms/)
      assert.equal((await host.tcpConnect('127.0.0.1', port, 20_000)).ok, true)
    } finally {
      // One that stayed open would keep this process from its end, whatever the test said.
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    }
    assert.equal((await host.tcpConnect('127.0.0.1', port, 20_000)).ok, false)
  })
})
