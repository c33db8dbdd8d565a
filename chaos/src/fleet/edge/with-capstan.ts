import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { FleetOptions } from '../plan.js'

/** Where a machine finds the programs. */
export const INSTALLED = '/opt/capstan'

/** The same fleet, with the build in `project` installed on every machine: below `/opt/capstan`, and `capstan` in the PATH. */
export function withCapstan(options: FleetOptions, project: string): FleetOptions {
  const bin = join(options.directory, 'bin')
  mkdirSync(bin, { recursive: true })
  const file = join(bin, 'capstan')
  writeFileSync(file, `#!/bin/sh\nexec node ${INSTALLED}/services/cli/dist/programs/capstan.js "$@"\n`)
  chmodSync(file, 0o755)
  return {
    ...options,
    path: [bin, ...(options.path ?? [])],
    machines: options.machines.map((machine) => ({
      ...machine,
      mounts: { [INSTALLED]: project, ...machine.mounts },
    })),
  }
}
