// npm start [-- FLAGS]: = capstan up. Installs and builds what is missing first.
import { ensureBuilt } from './setup.mjs'

await ensureBuilt()
const { main } = await import('../services/cli/dist/programs/main.js')
await main(['up', ...process.argv.slice(2)])
