/** `npm run chaos -- COMMAND …`, and `capstan chaos COMMAND …`. */
import { goOnUnread } from '@capstan/real'
import { fleetCommand } from './fleet/index.js'
import { main } from './harness/main-edge.js'

goOnUnread()
const [command, ...args] = process.argv.slice(2)
try {
  switch (command) {
    case 'fleet':
      process.exitCode = await fleetCommand(args)
      break
    default:
      await main(process.argv.slice(2))
      // Connections that hang must not keep us.
      process.exit()
  }
} catch (error) {
  process.stderr.write(`chaos: ${(error as Error).message}\n`)
  process.exitCode = 1
}
