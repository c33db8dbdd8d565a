// npm test [ROOM ...]: builds, checks the rooms and runs the tests. With room names (libs/actor), only theirs.
import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { ensureBuilt, root, run } from './setup.mjs'

const rooms = process.argv.slice(2)

function testFiles(dir) {
  const found = []
  for (const entry of readdirSync(join(root, dir), { withFileTypes: true })) {
    if (entry.name === 'node_modules') continue
    const path = join(dir, entry.name)
    if (entry.isDirectory()) found.push(...testFiles(path))
    else if (entry.name.endsWith('.test.js') && path.includes('/dist/')) found.push(path)
  }
  return found.sort()
}

await ensureBuilt(rooms)
run(process.execPath, [join(root, 'scripts/check-rooms.mjs')])
run(join(root, 'node_modules/.bin/oxlint'), ['--quiet', ...rooms])
if (rooms.length === 0) {
  // What the tests of the real thing need on a fresh machine; without root or Debian those tests say that they are left out.
  const { provideEtcd, provideHost } = await import('../services/cli/dist/packages.js')
  const say = (text) => console.error(`capstan: ${text}`)
  for (const lack of (await provideHost({ bus: true, containers: true }, say)).lacks) say(lack)
  for (const lack of (await provideEtcd(say)).lacks) say(lack)
}
const files = (rooms.length > 0 ? rooms : ['libs', 'services', 'chaos', 'test']).flatMap(testFiles)
run(
  process.execPath,
  [
    '--enable-source-maps',
    '--test',
    // One more than there are processors: several files wait most of their time for a cluster.
    `--test-concurrency=${Math.max(2, availableParallelism() + 1)}`,
    '--test-reporter=spec',
    ...files,
  ],
  { stdio: 'inherit' },
)
