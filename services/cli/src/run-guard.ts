/**
 * The guard of one node: `programs/run-guard.js DATA NAME`. In a process group of its own: it ends the node's identity pods when
 * the kubelet is stopped, killed or cut off for longer than its lease.
 */
import { runGuard } from '@capstan/kubelet/guard'
import { realLog } from '@capstan/real'
import { Places } from './layout.js'

const [data = '', name = ''] = process.argv.slice(2)
await runGuard(new Places(data).machine(name), realLog({ name: `${name}-guard` }))
