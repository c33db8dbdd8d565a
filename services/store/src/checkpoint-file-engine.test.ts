import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stateEngineContract } from '@capstan/mvcc/testing'
import { RealDisk } from '@capstan/real'
import { CheckpointFileEngine } from './checkpoint-file-engine.js'

stateEngineContract('checkpoint file', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'capstan-engine-'))
  const disk = new RealDisk(dir)
  let last: CheckpointFileEngine | undefined
  return {
    open: async () => (last = await CheckpointFileEngine.open(disk)),
    crash: (engine) => engine.close(),
    end: async () => {
      await last?.checkpoint()
      await rm(dir, { recursive: true })
    },
  }
})
