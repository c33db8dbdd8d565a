// npm run capstan -- COMMAND …: the command line, built first if need be.
import { ensureBuilt } from './setup.mjs'

await ensureBuilt()
const { main } = await import('../services/cli/dist/programs/main.js')
await main(process.argv.slice(2))
