// What every command needs first: the packages that package-lock.json names, and the compiled program. Node alone runs this.
import { spawnSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'

export const root = join(import.meta.dirname, '..')

export function ensurePackages() {
  const [major = 0] = process.versions.node.split('.').map(Number)
  if (major < 20) fail(`Capstan needs Node 20 or newer; this is ${process.version}`)
  const installed = join(root, 'node_modules/.package-lock.json')
  const lock = join(root, 'package-lock.json')
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return
  console.error('capstan: installing npm packages (npm ci): what package-lock.json names')
  run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'])
}

/** `rooms`: only these and what they import; default: everything. */
export function ensureBuilt(rooms = []) {
  ensurePackages()
  run(process.execPath, [join(root, 'libs/api/scripts/generate-descriptions.mjs')])
  run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-b', ...rooms])
}

export function run(command, args, options = {}) {
  const done = spawnSync(command, args, { cwd: root, stdio: ['inherit', 2, 'inherit'], ...options })
  if (done.error) fail(`${command}: ${done.error.message}`)
  if (done.status !== 0) process.exit(done.status ?? 1)
}

function fail(text) {
  console.error(`capstan: ${text}`)
  process.exit(1)
}
