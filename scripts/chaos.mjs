// npm run chaos -- COMMAND …: see chaos/src/main.ts.
import { join } from 'node:path'
import { ensureBuilt, root, run } from './setup.mjs'

// `fleet exec` is typed often, and needs nothing new.
if (process.argv[3] !== 'exec') await ensureBuilt()
run(process.execPath, ['--enable-source-maps', join(root, 'chaos/dist/main.js'), ...process.argv.slice(2)], {
  stdio: 'inherit',
  cwd: process.cwd(),
})
