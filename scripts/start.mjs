// npm start [-- FLAGS]: = capstan up. Installs and builds what is missing first.
import { ensureBuilt } from './setup.mjs'

ensureBuilt()
const { main } = await import('../services/cli/dist/main.js')
await main(['up', ...process.argv.slice(2)])
