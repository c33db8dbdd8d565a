import { join } from 'node:path'

/** What a machine runs. */
export type ProgramName =
  | 'capstan'
  | 'run-master'
  | 'run-node'
  | 'run-gateway'
  | 'run-guard'
  | 'run-machine'
  | 'run-embedded'
  | 'store'
  | 'etcd'

/** The file that `npm run build` has bundled for a program (`scripts/setup.mjs`). */
export const programPath = (name: ProgramName): string => join(import.meta.dirname, 'programs', `${name}.js`)
