import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'

let directory: string
before(() => {
  directory = mkdtempSync(join(tmpdir(), 'capstan-programs-'))
})
after(() => rmSync(directory, { recursive: true, force: true }))

const caches = () => readdirSync(directory).filter((name) => name.endsWith('.cache'))

/** Runs the bundle until it has left its code behind; what it printed. */
function run(): string {
  const loader = join(import.meta.dirname, 'load-program.js')
  const program = `import { loadProgram } from ${JSON.stringify(loader)}; loadProgram(${JSON.stringify(join(directory, 'p.cjs'))}, 0)`
  const ran = spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' })
  assert.equal(ran.status, 0, ran.stderr)
  return ran.stdout
}

/** Two of them have the same length: V8's own check sees no difference. */
const bundle = (word: string) =>
  `process.stdout.write('${word} ' + require('node:path').basename(__filename) + '\\n')
   setTimeout(() => {}, 50)`

test('a program runs the same with the code of an earlier life, and never with that of another text', () => {
  writeFileSync(join(directory, 'p.cjs'), bundle('one'))
  assert.equal(run(), 'one p.cjs\n')
  const [first] = caches()
  assert.ok(first)
  assert.equal(run(), 'one p.cjs\n')
  assert.deepEqual(caches(), [first])
  writeFileSync(join(directory, 'p.cjs'), bundle('two'))
  assert.equal(run(), 'two p.cjs\n')
  assert.equal(caches().length, 1)
  assert.notEqual(caches()[0], first)
})

test('what is left damaged is compiled anew', () => {
  writeFileSync(join(directory, 'p.cjs'), bundle('one'))
  run()
  writeFileSync(join(directory, caches()[0] as string), 'garbage')
  assert.equal(run(), 'one p.cjs\n')
})
