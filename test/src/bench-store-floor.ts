/** What no store on this machine can do better: syncs of its disk, and round trips over its bus. */
import { closeSync, fdatasyncSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Cleanup } from './bench-cleanup.js'

const FILE_BYTES = 16 * 1024 * 1024
const BLOCK_BYTES = 4096

/** Appends of 4 KiB to a preallocated file, each followed by fdatasync; as many a second. */
export function syncsPerSecond(cleanup: Cleanup, parent: string, durationMs: number): number {
  const directory = cleanup.directory(parent)
  const file = openSync(join(directory, 'sync'), 'w')
  const block = Buffer.alloc(BLOCK_BYTES, 1)
  try {
    for (let at = 0; at < FILE_BYTES; at += BLOCK_BYTES) writeSync(file, block, 0, BLOCK_BYTES, at)
    fdatasyncSync(file)
    let count = 0
    const startedMs = performance.now()
    let nowMs = startedMs
    for (; nowMs - startedMs < durationMs; nowMs = performance.now()) {
      writeSync(file, block, 0, BLOCK_BYTES, (count++ * BLOCK_BYTES) % FILE_BYTES)
      fdatasyncSync(file)
    }
    return (count / (nowMs - startedMs)) * 1000
  } finally {
    closeSync(file)
    cleanup.remove(directory)
  }
}
