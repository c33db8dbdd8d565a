import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from './console.js'

/** The harness is a program of its own: it puts clusters to the test from outside. */
const PROGRAM = join(import.meta.dirname, '../../../chaos/dist/main.js')

/** `capstan chaos …`: hands all arguments on; ends with the harness's exit code. */
export async function chaosCommand(args: readonly string[]): Promise<void> {
  if (!existsSync(PROGRAM)) throw new UserError(`the chaos harness is not part of this installation (no ${PROGRAM})`)
  const child = spawn(process.execPath, ['--enable-source-maps', PROGRAM, ...args], { stdio: 'inherit' })
  // A terminal's Ctrl-C reaches both; the harness clears up, and we wait for it.
  const wait = () => undefined
  const pass = () => void child.kill('SIGTERM')
  process.on('SIGINT', wait)
  process.on('SIGTERM', pass)
  process.exitCode = await new Promise<number>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
  process.off('SIGINT', wait)
  process.off('SIGTERM', pass)
}
