import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { EtcdServer, etcdVersion, hasEtcdctl } from './etcd-server.js'
import { runScript } from './etcdctl-script.js'
import { FaceCluster } from './face-cluster.js'

const script = readFileSync(join(import.meta.dirname, '../../testdata/etcd/etcdctl.txt'), 'utf8')
const lacks = [
  ...(hasEtcdctl() ? [] : ['etcdctl (Debian package etcd-client)']),
  ...(etcdVersion() ? [] : ['etcd (Debian package etcd-server)']),
]

describe('etcdctl', { skip: lacks.length > 0 ? `there is no ${lacks.join(' and no ')} here` : false }, () => {
  let cluster: FaceCluster
  let etcd: EtcdServer

  before(async () => {
    ;[cluster, etcd] = await Promise.all([FaceCluster.start(), EtcdServer.start()])
  })
  after(() => Promise.all([cluster?.end(), etcd?.stop()]))

  test('prints the same of the face as of etcd, command by command', async () => {
    const certificates = {
      ETCDCTL_CACERT: join(cluster.directory, 'ca.crt'),
      ETCDCTL_CERT: join(cluster.directory, 'client.crt'),
      ETCDCTL_KEY: join(cluster.directory, 'client.key'),
    }
    const leader = cluster.endpoint(await cluster.leader())
    const [ours, theirs] = await Promise.all([
      runScript(script, { ETCDCTL_ENDPOINTS: leader, ...certificates }),
      runScript(script, { ETCDCTL_ENDPOINTS: etcd.endpoint }),
    ])
    if (process.env.ETCDCTL_SHOW)
      for (const { line, command, output } of ours) console.log(`${line}: ${command}\n${output}`)
    const different = ours.flatMap(({ line, command, output }, at) => {
      const expected = theirs[at]?.output
      return output === expected ? [] : [`line ${line}: ${command}\n--- face\n${output}\n--- etcd\n${expected}`]
    })
    assert.equal(different.length, 0, different.join('\n\n'))
  })
})
