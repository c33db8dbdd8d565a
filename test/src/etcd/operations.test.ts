import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { makeCa, makeClientCertificate } from '@capstan/certs'
import { openEtcdDoor } from '@capstan/etcd/edge'
import { silentLog } from '@capstan/real'
import { hasEtcdctl } from './etcd-server.js'
import { FaceCluster } from './face-cluster.js'
import { GrpcClient, type Json } from './grpc-client.js'

const PATIENCE_MS = 20_000
const HOUR_MS = 3_600_000

/** Polls a condition: real time, so the bound is generous and no test depends on how long it takes. */
async function until<T>(what: string, condition: () => Promise<T | undefined | false>): Promise<T> {
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    const found = await condition()
    if (found !== undefined && found !== false) return found
    if (Date.now() > deadline) throw new Error(`waited ${PATIENCE_MS} ms in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

describe('etcdctl operates the store', {
  skip: hasEtcdctl() ? false : 'there is no etcdctl here (Debian package etcd-client)',
}, () => {
  let cluster: FaceCluster
  let environment: NodeJS.ProcessEnv

  before(async () => {
    cluster = await FaceCluster.start()
    environment = {
      PATH: process.env.PATH,
      ETCDCTL_API: '3',
      ETCDCTL_CACERT: join(cluster.directory, 'ca.crt'),
      ETCDCTL_CERT: join(cluster.directory, 'client.crt'),
      ETCDCTL_KEY: join(cluster.directory, 'client.key'),
    }
  })
  after(() => cluster?.end())

  const etcdctl = (...args: string[]) => etcdctlAt(cluster.endpoint('m1'), ...args)
  const etcdctlAt = (endpoints: string, ...args: string[]): Promise<{ code: number; stdout: string; error: string }> =>
    new Promise((resolve) =>
      execFile('etcdctl', args, { env: { ...environment, ETCDCTL_ENDPOINTS: endpoints } }, (error, stdout, stderr) => {
        const said = stderr.split('\n').filter((line) => line.startsWith('Error'))
        resolve({ code: error ? Number(error.code) : 0, stdout: stdout.trimEnd(), error: said.join('\n') })
      }),
    )
  const idOf = async (member: string): Promise<string> => {
    const { stdout } = await etcdctl('member', 'list')
    const line = stdout.split('\n').find((one) => one.split(', ')[2] === member)
    return (line ?? '').split(', ')[0] as string
  }

  test('status: every endpoint says who it is, one leads', async () => {
    const { stdout } = await etcdctlAt((await cluster.endpoints()).join(), 'endpoint', 'status', '-w', 'json')
    const all = JSON.parse(stdout) as { Status: { header: { member_id: number }; leader: number } }[]
    assert.equal(all.length, 3)
    assert.equal(new Set(all.map(({ Status }) => Status.header.member_id)).size, 3)
    assert.equal(all.filter(({ Status }) => Status.header.member_id === Status.leader).length, 1)
  })

  test('move-leader', async () => {
    const leader = await cluster.leader()
    const to = cluster.members.find((member) => member !== leader) as string
    const moved = await etcdctlAt((await cluster.endpoints()).join(), 'move-leader', await idOf(to))
    assert.match(moved.stdout, /^Leadership transferred from [0-9a-f]+ to [0-9a-f]+$/)
    assert.equal(await cluster.leader(), to)
    const other = await etcdctlAt(cluster.endpoint(leader), 'move-leader', await idOf(leader))
    assert.match(other.error, /no leader endpoint given/)
  })

  test('members are added, promoted when they have caught up, and removed', async () => {
    await etcdctl('put', 'before', '1')
    const added = await etcdctl('member', 'add', 'm4', '--learner', '--peer-urls=http://m4:2380')
    assert.match(added.stdout, /^Member +[0-9a-f]+ added to cluster/, added.error)
    assert.match(added.stdout, /ETCD_INITIAL_CLUSTER=".*m4=http:\/\/m4:2380/)
    const again = await etcdctl('member', 'add', 'm4', '--learner', '--peer-urls=http://m4:2380')
    assert.match(again.error, /etcdserver: Peer URLs already exists/)
    const id = await idOf('m4')
    const early = await etcdctl('member', 'promote', id)
    assert.match(early.error, /can only promote a learner member which is in sync with leader/)
    const voter = await etcdctl('member', 'promote', await idOf('m1'))
    assert.match(voter.error, /etcdserver: can only promote a learner member/)
    await cluster.startMember('m4', 'join')
    let refusal = ''
    await until('the promotion', async () => {
      const { code, error } = await etcdctl('member', 'promote', id)
      refusal = error
      return code === 0
    }).catch((error: Error) => assert.fail(`${error.message}: ${refusal}`))
    const list = await etcdctl('member', 'list', '-w', 'json')
    const { members } = JSON.parse(list.stdout) as { members: { name: string; isLearner?: boolean }[] }
    assert.deepEqual(
      members.map(({ name, isLearner = false }) => [name, isLearner]),
      ['m1', 'm2', 'm3', 'm4'].map((name) => [name, false]),
    )
    const removed = await etcdctl('member', 'remove', id)
    assert.match(removed.stdout, /^Member +[0-9a-f]+ removed from cluster/, removed.error)
    assert.match((await etcdctl('member', 'remove', id)).error, /etcdserver: member not found/)
    assert.equal((await etcdctl('get', 'before', '--print-value-only')).stdout, '1')
  })

  test('alarms are raised, told and disarmed', async () => {
    await cluster.ask('m1', 'alarm', { action: 'raise', alarm: 'NOSPACE', member: 'm2', byHand: true })
    assert.match((await etcdctl('alarm', 'list')).stdout, /^memberID:\d+ alarm:NOSPACE/)
    assert.match((await etcdctl('put', 'full', '1')).error, /etcdserver: mvcc: database space exceeded/)
    const status = JSON.parse((await etcdctl('endpoint', 'status', '-w', 'json')).stdout) as {
      Status: { errors: string[] }
    }[]
    assert.match(status[0]?.Status.errors?.join() ?? '', /^memberID:\d+ alarm:NOSPACE/)
    assert.equal((await etcdctl('del', 'before')).code, 0, 'what frees space is taken')
    assert.match((await etcdctl('alarm', 'disarm')).stdout, /^memberID:\d+ alarm:NOSPACE/)
    assert.equal((await etcdctl('alarm', 'list')).stdout, '')
    await cluster.ask('m1', 'alarm', { action: 'raise', alarm: 'CORRUPT', member: 'gone' })
    assert.match(
      (await etcdctl('alarm', 'disarm')).stdout,
      /^memberID:\d+ alarm:CORRUPT/,
      'of one that is no member any more',
    )
    assert.equal((await etcdctl('alarm', 'list')).stdout, '')
    assert.equal((await etcdctl('put', 'full', '1')).stdout, 'OK')
  })

  test('hashkv: all members have the same at the same revision', async () => {
    const { stdout } = await etcdctlAt((await cluster.endpoints()).join(), 'endpoint', 'hashkv', '-w', 'json')
    const all = JSON.parse(stdout) as { HashKV: { hash: number; header: { revision: number } } }[]
    assert.equal(new Set(all.map(({ HashKV }) => `${HashKV.hash} at ${HashKV.header.revision}`)).size, 1, stdout)
  })

  test('snapshot save: a file with its checksum at the end', async () => {
    await etcdctl('put', 'large', 'x'.repeat(100_000))
    const file = join(cluster.directory, 'snapshot')
    const { stdout } = await etcdctl('snapshot', 'save', file)
    assert.match(stdout, /Snapshot saved at/)
    const bytes = await readFile(file)
    assert.equal(bytes.length % 512, 32)
    const digest = createHash('sha256').update(bytes.subarray(0, -32)).digest()
    assert.ok(digest.equals(bytes.subarray(-32)))
  })

  test('lock: the second one waits for the first', async () => {
    const order = join(cluster.directory, 'order')
    const program = join(cluster.directory, 'in-and-out.sh')
    await writeFile(program, `echo in $1 >> ${order}; sleep $2; echo out $1 >> ${order}\n`)
    const run = (text: string, seconds: string) => etcdctl('lock', 'door', 'sh', program, text, seconds)
    const first = run('first', '0.5')
    await until('the first', async () => (await readFile(order, 'utf8').catch(() => '')) !== '')
    await Promise.all([first, run('second', '0')])
    assert.equal(await readFile(order, 'utf8'), 'in first\nout first\nin second\nout second\n')
  })

  test('check perf', {
    skip: process.env.ETCD_CHECK_PERF ? false : 'takes a minute: set ETCD_CHECK_PERF=1',
  }, async () => {
    const { stdout } = await etcdctl('check', 'perf')
    assert.match(stdout, /^PASS$/m, stdout)
  })
})

describe('the face', () => {
  let cluster: FaceCluster
  let client: GrpcClient

  before(async () => {
    cluster = await FaceCluster.start()
    client = new GrpcClient(cluster.endpoint('m1'), cluster.directory)
  })
  after(async () => {
    client?.close()
    await cluster?.end()
  })

  test('lets nobody in without a certificate of its authority', async () => {
    const endpoint = cluster.endpoint('m1')
    const plain = new GrpcClient(endpoint)
    const validity = { notBeforeMs: Date.now() - HOUR_MS, notAfterMs: Date.now() + HOUR_MS }
    const other = await makeClientCertificate(await makeCa('other', validity), { ...validity, user: 'x', groups: [] })
    const directory = join(cluster.directory, 'other')
    await mkdir(directory)
    await writeFile(join(directory, 'ca.crt'), await readFile(join(cluster.directory, 'ca.crt')))
    await writeFile(join(directory, 'client.crt'), other.cert)
    await writeFile(join(directory, 'client.key'), other.key)
    const stranger = new GrpcClient(endpoint, directory)
    try {
      for (const one of [plain, stranger]) {
        const answer = (await one.call('KV/Range', { key: Buffer.from('a') }, { timeoutMs: 2000 })) as Json
        assert.equal(answer.error?.code, 14, JSON.stringify(answer))
      }
    } finally {
      plain.close()
      stranger.close()
    }
  })

  test('says which port it cannot have', async () => {
    const taken = createServer()
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
    const { port } = taken.address() as { port: number }
    const tls = { ca: '', cert: '', key: '' }
    const open = () => Promise.reject(new Error('not asked'))
    await assert.rejects(
      openEtcdDoor({ hosts: ['127.0.0.1'], port, tls, log: silentLog, open }),
      new RegExp(`port ${port} on 127.0.0.1 cannot be had \\(EADDRINUSE\\)`),
    )
    await new Promise((resolve) => taken.close(resolve))
    await assert.rejects(
      openEtcdDoor({ hosts: ['0.0.0.0'], port: 0, tls: 'insecure', log: silentLog, open }),
      /loopback only/,
    )
  })

  test('a leader that dies is a delay to who writes, and no event of a watch is lost or doubled', async () => {
    const leader = await cluster.leader()
    const revived = cluster.members.filter((member) => member !== leader)
    // A face whose own member is the one that dies, and one whose is not.
    const faces = [leader, revived[0] as string].map(
      (member) => new GrpcClient(cluster.endpoint(member), cluster.directory),
    )
    const watches = faces.map((face) => face.open('Watch/Watch'))
    try {
      for (const watch of watches) {
        watch.send({ create_request: { key: Buffer.from('f'), range_end: Buffer.from('g') } })
        await watch.until(1)
      }
      let stop = false
      let acknowledged = 0
      const writers = Array.from({ length: 16 }, async (_, at) => {
        for (let turn = 0; !stop; turn++) {
          const face = faces[at % 2] as GrpcClient
          const answer = (await face.call('KV/Put', {
            key: Buffer.from(`f${at}`),
            value: Buffer.from(String(turn)),
          })) as Json
          assert.equal(answer.error, undefined, JSON.stringify(answer.error))
          acknowledged++
        }
      })
      await until('writes', async () => acknowledged > 200)
      await cluster.kill(leader)
      const before = acknowledged
      await until('writes after it', async () => acknowledged > before + 200)
      stop = true
      await Promise.all(writers)
      for (const watch of watches) {
        const received = await watch.until((all) => eventsOf(all).length >= acknowledged)
        const revisions = eventsOf(received).map(({ kv }) => Number(kv.mod_revision))
        assert.equal(revisions.length, acknowledged, 'each write happened once, and was told once')
        revisions.forEach((revision, at) => at > 0 && assert.equal(revision, (revisions[at - 1] as number) + 1))
      }
    } finally {
      for (const watch of watches) watch.cancel()
      for (const face of faces) face.close()
    }
    await cluster.startMember(leader, 'existing')
  })

  test('without a majority: told that it did not happen or may have, in time', async () => {
    const [first, second] = cluster.members as [string, string]
    await cluster.kill(first)
    await cluster.kill(second)
    const third = new GrpcClient(cluster.endpoint('m3'), cluster.directory)
    try {
      const put = (await third.call(
        'KV/Put',
        { key: Buffer.from('q'), value: Buffer.from('1') },
        { timeoutMs: 2000 },
      )) as Json
      assert.ok([4, 14].includes(put.error?.code), JSON.stringify(put))
      const [serializable, status, eager] = await Promise.all([
        third.call('KV/Range', { key: Buffer.from('q'), serializable: true }),
        third.call('Maintenance/Status'),
        until('a missing leader', async () => {
          const answer = (await third.call(
            'KV/Range',
            { key: Buffer.from('q') },
            { metadata: { hasleader: 'true' }, timeoutMs: 1000 },
          )) as Json
          return answer.error?.text === 'etcdserver: no leader' && answer
        }),
      ])
      assert.ok('ok' in serializable, JSON.stringify(serializable))
      assert.ok('ok' in status, JSON.stringify(status))
      assert.equal((eager as Json).error.code, 14)
      const watch = third.open('Watch/Watch')
      watch.send({ create_request: { key: Buffer.from('q') } })
      watch.cancel()
    } finally {
      third.close()
    }
    await Promise.all([cluster.startMember(first, 'existing'), cluster.startMember(second, 'existing')])
    const after = (await client.call('KV/Put', { key: Buffer.from('q'), value: Buffer.from('2') })) as Json
    assert.equal(after.error, undefined)
  })
})

const eventsOf = (received: Json[]): Json[] => received.flatMap(({ events }) => events)
