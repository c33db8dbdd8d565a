// npm run sim -- …: see chaos/src/sim/runner-edge.ts.
import { join } from 'node:path'
import { ensureBuilt, root, run } from './setup.mjs'

await ensureBuilt(['chaos'])
run(process.execPath, ['--enable-source-maps', join(root, 'chaos/dist/sim/runner-edge.js'), ...process.argv.slice(2)], {
  stdio: 'inherit',
})
