import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import test from 'node:test'
import { ROOT } from './cluster-under-test.js'

/** Runs the check on a tree of its own with these files. */
function check(files: Record<string, string>): { code: number | null; output: string } {
  const root = mkdtempSync(join(tmpdir(), 'capstan-rooms-'))
  try {
    const all: Record<string, string> = {
      'libs/actor/package.json': '{"name":"@capstan/actor"}',
      'libs/client/package.json': '{"name":"@capstan/client"}',
      'services/store/package.json': '{"name":"@capstan/store"}',
      'services/kubelet/package.json': '{"name":"@capstan/kubelet"}',
      ...files,
    }
    for (const [path, text] of Object.entries(all)) {
      mkdirSync(join(root, dirname(path)), { recursive: true })
      writeFileSync(join(root, path), text)
    }
    const ran = spawnSync(process.execPath, [join(ROOT, 'scripts/check-rooms.mjs'), root], { encoding: 'utf8' })
    return { code: ran.status, output: ran.stdout + ran.stderr }
  } finally {
    rmSync(root, { recursive: true })
  }
}

test('this tree keeps the rules', () => {
  const ran = spawnSync(process.execPath, [join(ROOT, 'scripts/check-rooms.mjs')], { encoding: 'utf8' })
  assert.equal(ran.status, 0, ran.stderr)
})

const BREACHES: [what: string, path: string, code: string][] = [
  ['a lib imports a service', 'libs/client/src/a.ts', "import { x } from '@capstan/store'\n"],
  ['a service imports a service', 'services/kubelet/src/a.ts', "import { x } from '@capstan/store'\n"],
  ['a lib imports a lib above it', 'libs/actor/src/a.ts', "import { x } from '@capstan/client'\n"],
  ['a path leads into another room', 'services/kubelet/src/a.ts', "import { x } from '../../store/src/b.js'\n"],
  ['the clock is read', 'services/kubelet/src/a.ts', 'export const x = Date.now()\n'],
  ['a timer is set', 'libs/client/src/a.ts', 'setTimeout(() => undefined, 1)\n'],
  ['chance is drawn', 'services/store/src/a.ts', 'export const x = Math.random()\n'],
  ['the disk is touched', 'services/store/src/a.ts', "import { readFileSync } from 'node:fs'\n"],
  ['the environment is read', 'libs/client/src/a.ts', "export const x = process.env['HOME']\n"],
]

for (const [what, path, code] of BREACHES)
  test(`refused: ${what}`, () => {
    const { code: exit, output } = check({ [path]: code })
    assert.equal(exit, 1, output)
    assert.match(output, new RegExp(`${path}:1: `))
  })

test('comments and strings are no breach, and edges may touch the world', () => {
  const { code, output } = check({
    'services/kubelet/src/a.ts': "// Date.now() would be wrong here\nexport const x = 'setTimeout'\n",
    'services/kubelet/src/edge/b.ts': "import { readFileSync } from 'node:fs'\nexport const y = readFileSync\n",
  })
  assert.equal(code, 0, output)
})
