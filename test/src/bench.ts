/** `npm run bench -- NAME`: figures with the machine they were measured on. Not part of the tests. */
import { Command, InvalidArgumentError, Option } from 'commander'
import { UserError } from '@capstan/cli'
import { goOnUnread } from '@capstan/real'
import { benchCalm } from './bench-calm.js'
import { benchFailover } from './bench-failover.js'
import { benchStart } from './bench-start.js'
import { benchStore } from './bench-store.js'

function positive(text: string): number {
  const value = Number(text)
  if (!(value > 0 && Number.isFinite(value))) throw new InvalidArgumentError('not a number above 0')
  return value
}

function count(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError('not a whole number above 0')
  return Number(text)
}

const words = (separator: string) => (text: string) => text.split(separator)

goOnUnread()
const program = new Command('npm run bench --').description('figures, with the machine they were measured on')
program
  .command('start')
  .description('time from the first process to all nodes Ready, and memory when idle')
  .option('--runs <count>', 'clusters to start', count, 5)
  .option('--idle-seconds <seconds>', 'how long the last one is left idle', positive, 60)
  .action((options) => benchStart(options))
program
  .command('failover')
  .description('the gap in writes when the leading master is killed; elections without a cause')
  .option('--kills <count>', 'how often', count, 20)
  .option('--quiet-minutes <minutes>', 'under load without a kill', positive, 10)
  .action((options) => benchFailover(options))
program
  .command('calm')
  .description('nodes that are marked falsely while processors are busy, processes pause and bus servers restart')
  .option('--minutes <minutes>', 'how long', positive, 10)
  .action((options) => benchCalm(options))
program
  .command('store')
  .description("the store beside Debian's etcd, in one run")
  .option('--quick', 'fewer and shorter rounds', false)
  .option('--rows <names>', 'only these, separated by commas', words(','))
  .option('--runs <count>', 'rounds of each row', count)
  .option('--kills <count>', 'of the row that kills leaders', count)
  .option('--keys <count>', 'of the large rows', count)
  .option('--clients <count>', 'client processes', count)
  .option('--dir <directory>', 'where the data lies')
  .addOption(new Option('-o, --output <format>', 'format').choices(['json']))
  .option('--file <file>', 'where the figures are written')
  .addOption(new Option('--side <side>', 'only one of them, for profiling').choices(['capstan', 'etcd']))
  .addOption(
    new Option('--over <protocol>', "by each one's own protocol, or both by etcd v3 gRPC")
      .choices(['bus', 'etcd'])
      .default('bus'),
  )
  .option('--store-arguments <arguments>', 'of node, for our members, separated by blanks', words(' '))
  .action(({ dir, ...options }) => benchStore({ ...options, directory: dir }))

try {
  await program.parseAsync()
} catch (error) {
  // What the user did wrong or the machine lacks is told in a line; a bug shows its stack.
  process.stderr.write(`bench: ${error instanceof UserError ? error.message : ((error as Error).stack ?? error)}\n`)
  process.exitCode = 1
}
