// npm run demo: see test/src/demo.ts.
import { join } from 'node:path'
import { ensureBuilt, root, run } from './setup.mjs'

await ensureBuilt()
run(process.execPath, ['--enable-source-maps', join(root, 'test/dist/demo.js'), ...process.argv.slice(2)], {
  stdio: 'inherit',
})
