/**
 * The guard's process: `import '@capstan/kubelet/guard'`. Small and alone: it needs neither kubelet, nor runtime, nor
 * network, and is no member of the kubelet's process group.
 */
import { existsSync } from 'node:fs'
import type { Log } from '@capstan/actor'
import { GUARD_PERIOD_MS } from '../guard.js'
import { GuardCore } from '../guard-core.js'
import { endTarget } from './end-target.js'
import { bootId, bootMs, GuardFiles } from './guard-files.js'

const STATE_PERIOD_MS = 500

/** Watches until the directory is gone. */
export async function runGuard(directory: string, log: Log): Promise<void> {
  const files = new GuardFiles(directory)
  const core = new GuardCore(bootId())
  let said = { sequence: -1, atMs: Number.NEGATIVE_INFINITY }
  while (existsSync(directory)) {
    // Before all else: what is said of this moment is true, even if all stood still on the way to saying it.
    const atMs = bootMs()
    core.take(files.readOrder())
    const { targets, news } = core.due(bootMs())
    for (const target of targets) {
      const ended = endTarget(target)
      if (ended > 0) log.warn({ pod: target.podUid, processes: ended }, 'ended what ran of a pod')
    }
    if (news && targets.length > 0)
      log.warn({ pods: targets.length, atMs }, 'the lease is over: no identity pod may run')
    // Last: whoever reads it knows that what was due has been done.
    if (core.sequence !== said.sequence || atMs - said.atMs >= STATE_PERIOD_MS) {
      said = { sequence: core.sequence, atMs }
      files.writeState(said)
    }
    const leftMs = (core.deadlineMs ?? Number.POSITIVE_INFINITY) - bootMs()
    await new Promise((resolve) =>
      setTimeout(resolve, leftMs > 0 ? Math.min(leftMs, GUARD_PERIOD_MS) : GUARD_PERIOD_MS),
    )
  }
}
