/** `npm run chaos -- COMMAND …`. */
import { FLEET_USAGE, fleetCommand } from './fleet/index.js'

const [command, ...args] = process.argv.slice(2)
try {
  switch (command) {
    case 'fleet':
      process.exitCode = await fleetCommand(args)
      break
    default:
      process.stderr.write(`${FLEET_USAGE}\n`)
      process.exitCode = 1
  }
} catch (error) {
  process.stderr.write(`chaos: ${(error as Error).message}\n`)
  process.exitCode = 1
}
