import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { test } from 'node:test'

/** Says a word, then goes on printing once it is told to; ends with 7 when all is written or failed. */
const program = (guard: string) => `${guard}
  process.stdout.write('first\\n')
  process.stdin.once('data', async () => {
    for (let line = 0; line < 3; line++)
      await new Promise((done) => process.stdout.write('x'.repeat(100_000), () => setImmediate(done)))
    process.exit(7)
  })`

async function leftUnread(guard: string): Promise<{ code: number | null; said: string }> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', program(guard)])
  let said = ''
  child.stderr.on('data', (text: Buffer) => (said += text.toString()))
  const ended = once(child, 'close')
  await once(child.stdout, 'data')
  child.stdout.destroy()
  await once(child.stdout, 'close')
  child.stdin.end('go on')
  const [code] = (await ended) as [number | null]
  return { code, said }
}

test('a program whose output nobody reads any more ends as it would have', async () => {
  const module = JSON.stringify(join(import.meta.dirname, 'unread-output.js'))
  assert.deepEqual(await leftUnread(`import { goOnUnread } from ${module}; goOnUnread()`), { code: 7, said: '' })
})

test('without that, Node ends it', async () => {
  const { code, said } = await leftUnread('')
  assert.equal(code, 1)
  assert.match(said, /EPIPE/)
})
