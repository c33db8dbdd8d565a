import assert from 'node:assert/strict'
import { connect, type ClientHttp2Session } from 'node:http2'
import { Agent, request } from 'node:https'
import { after, before, describe, test } from 'node:test'
import { makeCa, makeClientCertificate } from '@capstan/certs'
import { createTestApi, serveTestHttps, type TestApi, type TestHttps } from '../testing/index.js'
import { tokenVerifier } from './index.js'

interface Answer {
  status: number
  headers: Record<string, string | string[] | undefined>
  text: string
}

describe('the HTTPS door', () => {
  let api: TestApi
  let https: TestHttps
  let agent: Agent
  before(async () => {
    const verifyToken = tokenVerifier({
      static: {
        'admin-token': { name: 'root', groups: ['system:masters', 'system:authenticated'] },
        'bob-token': { name: 'bob', groups: ['system:authenticated'] },
      },
    })
    api = await createTestApi({ server: { verifyToken } })
    https = await serveTestHttps(api.api)
    agent = new Agent({ ca: https.ca.cert, keepAlive: true, maxSockets: 1 })
  })
  after(async () => {
    agent.destroy()
    await https.close()
    await api.stop()
  })

  function ask(
    method: string,
    path: string,
    options: { token?: string; type?: string; accept?: string; body?: string | Buffer; agent?: Agent } = {},
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const { token, type, accept, body } = options
      const sent = request(
        `${https.url}${path}`,
        {
          method,
          agent: options.agent ?? agent,
          headers: {
            ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
            ...(type === undefined ? {} : { 'content-type': type }),
            ...(accept === undefined ? {} : { accept }),
            ...(body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }),
          },
        },
        (response) => {
          const pieces: Buffer[] = []
          response.on('data', (piece: Buffer) => pieces.push(piece))
          response.on('end', () =>
            resolve({
              status: response.statusCode ?? 0,
              headers: response.headers,
              text: Buffer.concat(pieces).toString(),
            }),
          )
        },
      )
      sent.on('error', reject)
      sent.end(body)
    })
  }

  const admin = { token: 'admin-token' }
  const reasonOf = (answer: Answer) => (JSON.parse(answer.text) as { kind: string; reason: string }).reason

  test('nobody may read health and version, and nothing else', async () => {
    for (const path of ['/version', '/healthz', '/livez', '/readyz', '/readyz?verbose'])
      assert.equal((await ask('GET', path)).status, 200, path)
    for (const path of [
      '/api',
      '/apis',
      '/api/v1',
      '/api/v1/namespaces',
      '/api/v1/nodes/x',
      '/openapi/v3',
      '/metrics',
      '/',
    ])
      assert.equal((await ask('GET', path)).status, 403, path)
    assert.equal((await ask('POST', '/api/v1/namespaces', { body: '{}', type: 'application/json' })).status, 403)
  })

  test('a wrong token is 401, not anonymous', async () => {
    for (const path of ['/version', '/api/v1/pods']) {
      const answer = await ask('GET', path, { token: 'wrong' })
      assert.equal(answer.status, 401)
      assert.equal(reasonOf(answer), 'Unauthorized')
    }
  })

  test('somebody without rights discovers, and gets 403 for objects', async () => {
    assert.equal((await ask('GET', '/apis', { token: 'bob-token' })).status, 200)
    const answer = await ask('GET', '/api/v1/namespaces/default/pods', { token: 'bob-token' })
    assert.equal(answer.status, 403)
    assert.match(
      answer.text,
      /pods is forbidden: User \\"bob\\" cannot list resource \\"pods\\" in API group \\"\\" in the namespace \\"default\\"/,
    )
  })

  test('a certificate of another authority is 401', async () => {
    const now = Date.now()
    const validity = { notBeforeMs: now - 60_000, notAfterMs: now + 60_000 }
    const foreign = await makeClientCertificate(await makeCa('other', validity), {
      ...validity,
      user: 'x',
      groups: ['system:masters'],
    })
    const other = new Agent({ ca: https.ca.cert, cert: foreign.cert, key: foreign.key })
    assert.equal((await ask('GET', '/api/v1/namespaces', { agent: other })).status, 401)
    const own = new Agent({ ca: https.ca.cert, cert: https.admin.cert, key: https.admin.key })
    assert.equal((await ask('GET', '/api/v1/namespaces', { agent: own })).status, 200)
    other.destroy()
    own.destroy()
  })

  test('bad bodies are told where they are wrong', async () => {
    const path = '/api/v1/namespaces/default/configmaps'
    const json = await ask('POST', path, { ...admin, type: 'application/json', body: '{"metadata": {"name": "a",}}' })
    assert.equal(json.status, 400)
    assert.match(json.text, /position \d+/)
    const yaml = await ask('POST', path, {
      ...admin,
      type: 'application/yaml',
      body: 'metadata:\n  name: a\n bad: [1\n',
    })
    assert.equal(yaml.status, 400)
    assert.match(yaml.text, /line \d+, column \d+/)
    const bomb = `a: &a [x, x]\n${'bcdefghijkl'
      .split('')
      .map(
        (c, at) =>
          `${c}: &${c} [${Array(9)
            .fill(`*${at === 0 ? 'a' : 'bcdefghijkl'[at - 1]}`)
            .join(', ')}]`,
      )
      .join('\n')}\n`
    assert.equal((await ask('POST', path, { ...admin, type: 'application/yaml', body: bomb })).status, 400)
    assert.equal((await ask('POST', path, { ...admin, type: 'application/json', body: '[]' })).status, 400)
    assert.equal((await ask('POST', path, { ...admin, type: 'application/cbor', body: 'x' })).status, 415)
    assert.equal(
      (await ask('POST', path, { ...admin, type: 'application/vnd.kubernetes.protobuf', body: 'garbage' })).status,
      400,
    )
    assert.equal((await ask('GET', path, { ...admin, accept: 'text/html' })).status, 406)
    assert.equal((await ask('GET', `${path}?limit=many`, admin)).status, 400)
    assert.equal((await ask('GET', `${path}?resourceVersion=xyz`, admin)).status, 400)
    assert.equal((await ask('GET', `${path}?continue=garbage`, admin)).status, 400)
    assert.equal((await ask('GET', '/api/v1/%zz/x', admin)).status, 400)
    assert.equal((await ask('GET', '/apis/nowhere.example/v1/things', admin)).status, 404)
    assert.equal((await ask('PUT', path, { ...admin, type: 'application/json', body: '{}' })).status, 405)
  })

  test('a write that was not done in the time the client gave it is refused, and not done later', async () => {
    const path = '/api/v1/namespaces/default/configmaps'
    const create = (name: string, timeout: string) =>
      ask('POST', `${path}?timeout=${timeout}`, {
        token: 'admin-token',
        type: 'application/json',
        body: JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name } }),
      })
    const open = api.store.park()
    const late = await create('too-late', '0.2s').finally(open)
    assert.equal(late.status, 504, late.text)
    assert.equal((await ask('GET', `${path}/too-late`, { token: 'admin-token' })).status, 404)
    const senseless = await create('x', 'soon')
    assert.equal(senseless.status, 400)
    assert.match(senseless.text, /timeout: .*soon.* is no duration/)
    assert.equal((await create('in-time', '1m30s')).status, 201)
  })

  test('20 MB are refused, and the server goes on (HTTP/1.1)', async () => {
    const answer = await ask('POST', '/api/v1/namespaces/default/configmaps', {
      ...admin,
      type: 'application/json',
      body: Buffer.alloc(20_000_000, 97),
    })
    assert.equal(answer.status, 413)
    assert.equal(reasonOf(answer), 'RequestEntityTooLarge')
    assert.equal((await ask('GET', '/version')).status, 200)
  })

  test('20 MB are refused, and the connection goes on (HTTP/2)', async () => {
    // The client's own bound, in MB, for what waits to be sent.
    const session: ClientHttp2Session = connect(https.url, { ca: https.ca.cert, maxSessionMemory: 100 })
    const post = (path: string, body: Buffer, withLength: boolean) =>
      new Promise<number>((resolve, reject) => {
        const stream = session.request({
          ':method': body.length > 0 ? 'POST' : 'GET',
          ':path': path,
          authorization: 'Bearer admin-token',
          'content-type': 'application/json',
          ...(withLength ? { 'content-length': String(body.length) } : {}),
        })
        stream.on('response', (headers) => {
          stream.resume()
          stream.on('end', () => {
            resolve(Number(headers[':status']))
            stream.close()
          })
        })
        stream.on('error', reject)
        if (body.length > 0) stream.end(body)
      })
    const big = Buffer.alloc(20_000_000, 97)
    assert.equal(await post('/api/v1/namespaces/default/configmaps', big, true), 413)
    assert.equal(await post('/api/v1/namespaces/default/configmaps', big, false), 413)
    assert.equal(await post('/api/v1/namespaces', Buffer.alloc(0), false), 200)
    session.destroy()
  })

  test('a watch streams over HTTP/2, and ends at its time', async () => {
    const session = connect(https.url, { ca: https.ca.cert })
    const stream = session.request({
      ':path': '/api/v1/namespaces?watch=1&timeoutSeconds=1&resourceVersion=0',
      authorization: 'Bearer admin-token',
    })
    let text = ''
    stream.on('data', (piece: Buffer) => {
      text += piece.toString()
    })
    await new Promise<void>((resolve, reject) => {
      stream.on('end', resolve)
      stream.on('error', reject)
    })
    session.destroy()
    const events = text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { type: string; object: { metadata: { name: string } } })
    assert.deepEqual(
      events.map((event) => `${event.type} ${event.object.metadata.name}`),
      ['ADDED default', 'ADDED kube-node-lease', 'ADDED kube-public', 'ADDED kube-system'],
    )
  })
})
