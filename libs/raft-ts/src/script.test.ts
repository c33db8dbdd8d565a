import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import test from 'node:test'
import { LogScript } from './test-log-script.js'
import { ScriptCluster } from './test-script.js'

// Each script is prose, commands (`> …`) and what they answer. RAFT_REWRITE=1 writes the answers anew: then read the
// difference line by line, it is what the change did to the protocol.
const ROOT = join(import.meta.dirname, '../testdata')

const files = readdirSync(ROOT, { recursive: true, withFileTypes: true })
  .filter((file) => file.name.endsWith('.txt'))
  .map((file) => join(file.parentPath, file.name))
  .sort()

for (const file of files)
  test(`script ${relative(ROOT, file)}`, async () => {
    const expected = readFileSync(file, 'utf8')
    const runner = relative(ROOT, file).startsWith('log') ? new LogScript() : new ScriptCluster()
    const actual: string[] = []
    let answers = false
    for (const line of expected.trimEnd().split('\n')) {
      // An answer goes on until an empty line, prose or the next command.
      if (line.startsWith('> ')) {
        actual.push(line, ...(await runner.run(line.slice(2).trim())).map((answer) => `  ${answer}`))
        answers = true
      } else if (!answers || line === '' || line.startsWith('#')) {
        actual.push(line)
        answers = false
      }
    }
    const text = `${actual.join('\n')}\n`
    if (process.env['RAFT_REWRITE'] === '1') writeFileSync(file, text)
    else assert.equal(text, expected)
  })

test('there are scripts', () => assert.ok(files.length >= 10))
