// npm run capstan -- COMMAND …: the command line, built first if need be.
import { ensureBuilt } from './setup.mjs'

ensureBuilt()
const { main } = await import('../services/cli/dist/main.js')
await main(process.argv.slice(2))
