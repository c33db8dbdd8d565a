import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { connect as connectHttp2 } from 'node:http2'
import { connect } from 'node:net'
import { test } from 'node:test'
import { silentLog } from '@capstan/real'
import { Client, credentials } from '@grpc/grpc-js'
import type { EtcdFace } from '../face.js'
import { LeaseKeepAliveResponse, LeaseRequest } from '../messages.js'
import { stream } from '../rpc.js'
import { openEtcdDoor } from './door.js'

const SOCKETS = '/proc/net/tcp'
const ESTABLISHED = '01'
const KEEPALIVE_TIMER = '02'

const face: EtcdFace = {
  methods: {},
  requireLeader: () => Promise.resolve(),
  messageBytesMax: 1_000_000,
  close: () => undefined,
}
const open = (opens: () => Promise<EtcdFace>) =>
  openEtcdDoor({ hosts: ['127.0.0.1'], port: 0, tls: 'insecure', log: silentLog, open: opens })

test('TCP asks a silent client after 30 s whether it is still there', {
  skip: existsSync(SOCKETS) ? false : `there is no ${SOCKETS} here`,
}, async () => {
  let opened: () => void = () => undefined
  const taken = new Promise<void>((resolve) => {
    opened = resolve
  })
  const door = await open(() => {
    opened()
    return Promise.resolve(face)
  })
  const client = connect(door.port, '127.0.0.1')
  try {
    await taken
    const port = door.port.toString(16).toUpperCase().padStart(4, '0')
    const timers = readFileSync(SOCKETS, 'utf8')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .filter(([, local, , state]) => local?.endsWith(`:${port}`) && state === ESTABLISHED)
      .map(([, , , , , timer]) => timer?.split(':') as [string, string])
    assert.equal(timers.length, 1)
    const [[kind, ticks]] = timers as [[string, string]]
    assert.equal(kind, KEEPALIVE_TIMER)
    // A tick is 10 ms.
    const inMs = Number.parseInt(ticks, 16) * 10
    assert.ok(inMs > 20_000 && inMs <= 30_000, `in ${inMs} ms`)
  } finally {
    client.destroy()
    await door.close()
  }
})

test('a stream whose handler has no room is not read on, and goes on where it was', async () => {
  const path = '/etcdserverpb.Lease/LeaseKeepAlive'
  const handed: bigint[] = []
  let full: () => void = () => undefined
  let free: () => void = () => undefined
  const isFull = new Promise<void>((resolve) => {
    full = resolve
  })
  const method = stream(LeaseRequest, LeaseKeepAliveResponse, (calls) =>
    calls.receive({
      request: ({ id }) => {
        handed.push(id)
        if (id !== 2n) return
        full()
        return new Promise<void>((resolve) => {
          free = resolve
        })
      },
      done: () => calls.end(),
    }),
  )
  const door = await open(() => Promise.resolve({ ...face, methods: { [path]: method } }))
  const client = new Client(`127.0.0.1:${door.port}`, credentials.createInsecure())
  try {
    const call = client.makeBidiStreamRequest(
      path,
      (message: object) => LeaseRequest.encode(message as Record<string, never>),
      (bytes) => LeaseKeepAliveResponse.decode(bytes),
      {},
    )
    for (let id = 1n; id <= 5n; id++) call.write({ id })
    call.end()
    await isFull
    // A second connection's whole handshake: what the first one had sent is here by then.
    const other = connectHttp2(`http://127.0.0.1:${door.port}`)
    await once(other, 'remoteSettings')
    other.destroy()
    assert.deepEqual(handed, [1n, 2n])
    free()
    await once(call.resume(), 'end')
    assert.deepEqual(handed, [1n, 2n, 3n, 4n, 5n])
  } finally {
    client.close()
    await door.close()
  }
})

test('gRPC asks a silent client after two hours whether it is still there', async (t) => {
  const door = await open(() => Promise.resolve(face))
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const client = connectHttp2(`http://127.0.0.1:${door.port}`)
  try {
    // Then the server has the connection.
    await once(client, 'remoteSettings')
    const pinged = once(client, 'ping', { signal: AbortSignal.timeout(5000) })
    t.mock.timers.tick(7_200_000)
    await pinged
  } finally {
    client.destroy()
    await door.close()
  }
})
