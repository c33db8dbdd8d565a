import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stateEngineContract } from '@capstan/mvcc/testing'
import { LmdbStateEngine } from './lmdb-engine.js'

stateEngineContract('lmdb', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'capstan-lmdb-'))
  const open: LmdbStateEngine[] = []
  return {
    open: () => {
      const engine = new LmdbStateEngine(dir)
      open.push(engine)
      return Promise.resolve(engine)
    },
    // What a crash of the process leaves is what the last checkpoint wrote: closing adds nothing.
    crash: (engine) => engine.close(),
    end: async () => {
      for (const engine of open) await engine.close()
      await rm(dir, { recursive: true })
    },
  }
})
