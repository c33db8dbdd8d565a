import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type EngineHarness, mvccContract, stateEngineContract } from '@capstan/mvcc/testing'
import { LmdbStateEngine } from './lmdb-engine.js'

const harness = async (): Promise<EngineHarness> => {
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
}

// Each run starts threads and syncs a disk.
stateEngineContract('lmdb', harness, { runs: 15 })
mvccContract('lmdb', harness, { runs: 10, steps: 25 })
