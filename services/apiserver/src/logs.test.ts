import assert from 'node:assert/strict'
import { get } from 'node:https'
import { after, before, describe, test } from 'node:test'
import { CallError, type OutStream, serve, type Server } from '@capstan/actor'
import type { KubeObject } from '@capstan/api'
import { RESOURCES } from '@capstan/client'
import { type NodeLogsData, type NodeLogsRequest, Subjects } from '@capstan/protocol'
import { failure } from './errors.js'
import { logsRequestOf } from './logs.js'
import { createTestApi, serveTestHttps, type TestApi, type TestHttps } from './testing/index.js'

const pod = (name: string, containers: string[], nodeName?: string): KubeObject => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'default' },
  spec: {
    ...(nodeName ? { nodeName } : {}),
    containers: containers.map((container) => ({ name: container, image: 'i' })),
  },
})

describe('pods/log', () => {
  let api: TestApi
  let https: TestHttps
  let kubelet: Server
  const asked: NodeLogsRequest[] = []
  let open: OutStream | undefined
  before(async () => {
    api = await createTestApi()
    https = await serveTestHttps(api.api)
    const world = api.worldFor({ component: 'kubelet', name: 'n1' })
    kubelet = serve(world, {
      pattern: new Subjects(api.cluster).nodeServed('n1'),
      handle(call) {
        assert.equal(call.verb, 'logs')
        assert.match(call.from, /^apiserver~/)
        const request = call.body as NodeLogsRequest
        asked.push(request)
        if (request.previous) {
          const details = failure(400, 'BadRequest', 'previous terminated container "c" in pod "p" not found')
          throw new CallError('BadRequest', 'not-applied', details.message ?? '', { details })
        }
        const stream = call.openStream()
        const send = (text: string) => stream.send({ bytes: Buffer.from(text) } satisfies NodeLogsData)
        send('one\n')
        send('two\n')
        if (request.follow) open = stream
        else stream.end('done')
      },
    })
    const client = api.client()
    for (const one of [
      pod('p', ['c'], 'n1'),
      pod('two', ['a', 'b'], 'n1'),
      pod('waiting', ['c']),
      pod('lost', ['c'], 'gone'),
    ])
      await client.create(RESOURCES.pods, one)
  })
  after(async () => {
    kubelet.stop()
    await https.close()
    await api.stop()
  })

  const fetch = (path: string, onData?: (text: string, abort: () => void) => void) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const request = get(
        `${https.url}/api/v1/namespaces/default/pods/${path}`,
        { ca: https.ca.cert, cert: https.admin.cert, key: https.admin.key },
        (response) => {
          let text = ''
          response.on('data', (piece: Buffer) => {
            text += piece.toString()
            onData?.(text, () => {
              request.destroy()
              resolve({ status: response.statusCode ?? 0, text })
            })
          })
          response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
        },
      )
      request.on('error', (error) => (onData ? undefined : reject(error)))
    })

  test('comes from the node of the pod', async () => {
    assert.deepEqual(await fetch('p/log?tailLines=5&timestamps=true'), { status: 200, text: 'one\ntwo\n' })
    const { uid, ...rest } = asked.at(-1) as NodeLogsRequest
    assert.ok(uid)
    assert.deepEqual(rest, {
      namespace: 'default',
      pod: 'p',
      container: 'c',
      follow: false,
      previous: false,
      timestamps: true,
      tailLines: 5,
    })
  })

  test('a refusal of the kubelet is the answer; a node that is away is told', async () => {
    const refused = await fetch('p/log?previous=true')
    assert.equal(refused.status, 400)
    assert.match(refused.text, /previous terminated container/)
    const lost = await fetch('lost/log')
    assert.equal(lost.status, 502)
    assert.match(lost.text, /the kubelet of node \\"gone\\" does not answer/)
    assert.equal((await fetch('nobody/log')).status, 404)
    assert.match((await fetch('waiting/log')).text, /does not have a host assigned/)
    assert.match(
      (await fetch('two/log')).text,
      /a container name must be specified for pod two, choose one of: \[a b\]/,
    )
    assert.match((await fetch('two/log?container=c')).text, /container c is not valid for pod two/)
    assert.equal((await fetch('p/log?tailLines=-1')).status, 400)
  })

  test('follows, and lets go of the node when the reader goes', async () => {
    const ended = new Promise<string>((resolve) => {
      void fetch('p/log?follow=true', (text, abort) => {
        if (text === 'one\ntwo\n') open?.send({ bytes: Buffer.from('three\n') })
        if (text !== 'one\ntwo\nthree\n') return
        open?.onEnd(resolve)
        abort()
      })
    })
    assert.equal(await ended, 'cancelled')
  })

  test('sinceTime and sinceSeconds exclude each other', () => {
    const stored = pod('p', ['c'], 'n1')
    assert.throws(
      () => logsRequestOf(stored, { sinceSeconds: '1', sinceTime: '2026-01-01T00:00:00Z' }),
      /at most one of/,
    )
    assert.throws(() => logsRequestOf(stored, { sinceTime: 'yesterday' }), /not a time/)
  })
})
