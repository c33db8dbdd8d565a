import { programPath } from './programs.js'

/**
 * Of glibc's allocator. By its defaults it gives memory back to the kernel after each large frame and faults it in again
 * with the next one: a sixth of all CPU that a put costs. Kept instead: up to 32 MiB that is free, and frames on the heap.
 */
const ALLOCATOR = [
  'MALLOC_ARENA_MAX=2',
  'MALLOC_TOP_PAD_=4194304',
  'MALLOC_TRIM_THRESHOLD_=33554432',
  'MALLOC_MMAP_THRESHOLD_=4194304',
]

/** The command of a store's process; the process keeps the pid of whoever executes it. */
export function storeProcessCommand(configFile: string, nodeArguments: readonly string[] = []): string[] {
  return [
    'env',
    ...ALLOCATOR,
    process.execPath,
    '--max-semi-space-size=16',
    ...nodeArguments,
    programPath('store'),
    configFile,
  ]
}
