// npm run chaos -- COMMAND …: see chaos/src/main.ts.
import { join } from 'node:path'
import { ensureBuilt, root, run } from './setup.mjs'

// Ctrl-C is the program's: it undoes faults and clears up, and we wait for it.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => undefined)
// `fleet exec` is typed often, and needs nothing new.
if (process.argv[3] !== 'exec') await ensureBuilt()
run(process.execPath, ['--enable-source-maps', join(root, 'chaos/dist/main.js'), ...process.argv.slice(2)], {
  stdio: 'inherit',
  cwd: process.cwd(),
})
