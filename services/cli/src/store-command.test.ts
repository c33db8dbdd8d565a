import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, rm, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { type KubeObject, RESOURCES } from '@capstan/client'
import { Cluster } from './cluster.js'
import { UserError } from './console.js'
import { storeBackup, storeRecover, storeRestore, storeVerify } from './store-command.js'

test('a quorum is lost for good: recover says what could be lost, does nothing unasked, and makes a new cluster', async () => {
  const data = await mkdtemp(join(tmpdir(), 'capstan-recover-'))
  try {
    const first = await Cluster.start({ masters: 3, nodes: 0, data })
    const kept = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'kept', namespace: 'default' } }
    const made = await first.client().create<KubeObject>(RESOURCES.configmaps, kept as KubeObject)
    await first.stop()
    for (const lost of ['master-0', 'master-2']) await rm(join(data, 'machines', lost, 'store'), { recursive: true })

    await assert.rejects(storeRecover(data, undefined, false), (error: unknown) => {
      assert.ok(error instanceof UserError)
      assert.match(error.message, /kept: all that master-1 has.*Lost may be: every write.*Nothing was done/s)
      return true
    })
    assert.ok(!existsSync(join(data, 'machines/master-0/store')))
    await assert.rejects(storeRecover(data, 'master-0', true), /no directory of a member is left/)
    await storeRecover(data, undefined, true)
    const file = join(data, 'recovered-from-master-1.backup')
    await storeVerify(file)

    const second = await Cluster.start({ masters: 3, nodes: 0, data })
    const name = { namespace: 'default', name: 'kept' }
    const found = await second.client().get<KubeObject>(RESOURCES.configmaps, name)
    assert.equal(found.metadata.uid, made.metadata.uid)
    await second.client().create(RESOURCES.configmaps, { ...kept, metadata: { ...kept.metadata, name: 'later' } })
    // The in-process bus lets nobody else in.
    await assert.rejects(storeBackup(data, join(data, 'b'), undefined), /in-process bus/)
    await second.stop()

    // Back to the file: what came later is gone, and what each member had lies beside.
    await storeRestore(data, file)
    assert.ok((await readdir(join(data, 'machines/master-2'))).includes('store.before-restore'))
    const third = await Cluster.start({ masters: 3, nodes: 0, data })
    assert.equal((await third.client().get<KubeObject>(RESOURCES.configmaps, name)).metadata.uid, made.metadata.uid)
    await assert.rejects(third.client().get(RESOURCES.configmaps, { ...name, name: 'later' }), /not found/)
    await third.stop()

    await truncate(file, 5000)
    await assert.rejects(storeVerify(file), /not a whole backup/)
    await assert.rejects(storeRestore(data, file), /not a whole backup/)
    await assert.rejects(storeVerify(join(data, 'none')), /there is no such file/)
  } finally {
    await rm(data, { recursive: true, force: true })
  }
})
