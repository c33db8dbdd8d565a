import { isAbsolute, join, resolve } from 'node:path'
import { goOnUnread } from '@capstan/real'
import { Command, InvalidArgumentError, Option } from 'commander'
import pc from 'picocolors'
import { chaosCommand } from './chaos-command.js'
import { writeChartSecrets } from './chart-secrets.js'
import { UserError } from './console.js'
import { importImage } from './images.js'
import { existingLayout } from './layout-file.js'
import { Places } from './layout.js'
import { doctor } from './doctor/doctor.js'
import { machineCommand } from './machine-command.js'
import { addDrainCommands } from './node-commands.js'
import { printStatus } from './status.js'
import {
  changeStoreMembers,
  storeAlarms,
  storeBackup,
  storeMembers,
  storeMetrics,
  storeRecover,
  storeRestore,
  storeStatus,
  storeVerify,
} from './store-command.js'
import { recoveryOf, withRecoveryFlags } from './recovery-flags.js'
import { installSystemd } from './systemd/install.js'
import { stop, up } from './up.js'
import { addMachineCommands } from './vm/commands.js'
import { stopMachine } from './vm/leave.js'

const DATA_DIRECTORY = '.capstan'
const DEFAULT_PORT = 6443

function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('not a whole number')
  return Number(text)
}

/** Runs one command line. What the user did wrong is told in one line, with exit code 1. */
export async function main(args: string[]): Promise<void> {
  goOnUnread()
  const program = new Command('capstan').description(
    'A multi-master container orchestrator that an unmodified kubectl drives',
  )
  // What stands behind `chaos` is for the harness.
  program.enablePositionalOptions()
  const data = () =>
    new Option('--data <directory>', 'where the cluster keeps its state')
      .default(DATA_DIRECTORY)
      .argParser((text: string) => resolve(text))
  const dataOf = (options: { data: string }) =>
    isAbsolute(options.data) ? options.data : join(process.cwd(), options.data)

  withRecoveryFlags(program.command('up').description('start a cluster on this host'))
    .option('--masters <count>', 'masters to start', wholeNumber, 3)
    .option('--nodes <count>', 'nodes to start', wholeNumber, 3)
    .addOption(
      new Option('--runtime <kind>', 'what runs containers')
        .choices(['auto', 'containerd', 'process', 'hollow'])
        .default('auto'),
    )
    .addOption(new Option('--bus <kind>', 'what carries messages').choices(['auto', 'nats', 'memory']).default('auto'))
    .addOption(data())
    .option(
      '--port <port>',
      'where the API is served on loopback; the machines use ports above it',
      wholeNumber,
      DEFAULT_PORT,
    )
    .option('--chaos', 'open sockets by which its processes can be made to misbehave; never where it matters', false)
    .option('--detach', 'return when the cluster is ready, and leave it running', false)
    .action(async ({ chaos, ...options }) => {
      await up({
        ...options,
        data: dataOf(options),
        ...(chaos ? { chaos: {} } : {}),
        ...recoveryOf(options),
      })
    })

  program
    .command('stop')
    .description('stop all machines and remove what they left on this host; the data stays')
    .addOption(data())
    .action(async (options) => {
      if (!(await stopMachine(dataOf(options)))) await stop(dataOf(options))
    })

  program
    .command('status')
    .description('show masters, nodes and components')
    .addOption(data())
    .addOption(new Option('-o, --output <format>', 'format').choices(['text', 'json']).default('text'))
    .action(async (options) => printStatus(dataOf(options), options.output))

  program
    .command('machine')
    .description('act on one machine; a killed one stays down until it is started')
    .argument('<action>', 'kill, pause, resume or start')
    .argument('<name>', 'a master or node')
    .addOption(data())
    .action(async (action: string, name: string, options) => machineCommand(dataOf(options), action, name))

  const store = program.command('store').description('look after the store: its members, alarms and backups')
  const output = () => new Option('-o, --output <format>', 'format').choices(['text', 'json']).default('text')
  store
    .command('status')
    .description('what each member says of itself')
    .addOption(data())
    .addOption(output())
    .action(async (options) => storeStatus(dataOf(options), options.output))
  store
    .command('members')
    .description('list the members; or add one (it is a voter once it has caught up), or remove one')
    .argument('[action]', 'add or remove')
    .argument('[name]', 'the member')
    .addOption(data())
    .addOption(output())
    .action(async (action: string | undefined, name: string | undefined, options) => {
      if (action === undefined) return storeMembers(dataOf(options), options.output)
      if (name === undefined) throw new UserError(`which member is to be ${action}d?`)
      return changeStoreMembers(dataOf(options), action, name)
    })
  store
    .command('alarms')
    .description('list the alarms')
    .option('--clear <alarm>', 'clear one for all members: NOSPACE or CORRUPT')
    .addOption(data())
    .addOption(output())
    .action(async (options) => storeAlarms(dataOf(options), options.clear, options.output))
  store
    .command('metrics')
    .description("one member's metrics, as Prometheus reads them")
    .argument('<member>', 'a master')
    .addOption(data())
    .action(async (member: string, options) => storeMetrics(dataOf(options), member))
  store
    .command('backup')
    .description('keep everything that is in the store in one file')
    .argument('<file>', 'where')
    .option('--member <name>', 'who makes it; else one that does not lead')
    .addOption(data())
    .action(async (file: string, options) => storeBackup(dataOf(options), resolve(file), options.member))
  store
    .command('verify')
    .description('is a backup whole?')
    .argument('<file>', 'the backup')
    .action(async (file: string) => storeVerify(resolve(file)))
  store
    .command('restore')
    .description('make all members of a stopped cluster anew from a backup')
    .argument('<file>', 'the backup')
    .addOption(data())
    .action(async (file: string, options) => storeRestore(dataOf(options), resolve(file)))
  store
    .command('recover')
    .description('a majority is lost for good: say what could be lost, and make a new cluster of what one member has')
    .option('--from <member>', 'whose directory is kept; else the one that has the most')
    .option('--yes-i-may-lose-data', 'do it', false)
    .addOption(data())
    .action(async (options) => storeRecover(dataOf(options), options.from, options.yesIMayLoseData))

  const image = program.command('image').description('images without a registry')
  image
    .command('import')
    .description('put an OCI archive on all nodes')
    .argument('<file>', 'the archive')
    .addOption(data())
    .action(async (file: string, options) => {
      const places = new Places(dataOf(options))
      await importImage(existingLayout(places), places, resolve(file))
    })

  const chart = program.command('chart').description('the Helm chart in helm/capstan')
  chart
    .command('secrets')
    .description('make the Secrets and values that the chart needs: DIRECTORY/secrets.yaml and values.yaml')
    .requiredOption('--directory <directory>', 'where keys and credentials are kept, and found again')
    .option('--name <name>', 'name of the release', 'capstan')
    .option('--namespace <namespace>', 'where it will be installed', 'default')
    .option('--replicas <count>', 'masters', wholeNumber, 3)
    .option('--cluster-domain <domain>', 'DNS domain of the cluster that the masters run on', 'cluster.local')
    .option('--service-cidr <cidr>', 'addresses of Services inside Capstan', '10.96.0.0/16')
    .option('--address <address...>', 'names and addresses by which clients reach the API from outside', [])
    .action(async (options) => {
      await writeChartSecrets({
        ...options,
        directory: resolve(options.directory),
        addresses: options.address,
      })
    })

  addMachineCommands(program)
  addDrainCommands(program)

  program
    .command('chaos')
    .description('inject faults into a cluster under load and judge what came of it (capstan chaos --help)')
    .helpOption(false)
    .argument('[arguments...]')
    .allowUnknownOption()
    .passThroughOptions()
    .action(async (rest: string[]) => chaosCommand(rest))

  program
    .command('doctor')
    .description('is this host fit for a machine of Capstan, and is its machine well? exit code 1 if something failed')
    .addOption(
      new Option('--data <directory>', "the machine's directory; need not exist yet")
        .default('/var/lib/capstan')
        .argParser((text: string) => resolve(text)),
    )
    .addOption(new Option('--role <role>', 'what it is to be; default: what it is').choices(['master', 'node']))
    .addOption(output())
    .action(async (options) => doctor(options))

  program
    .command('install')
    .description('let the host run the machine of a directory')
    .command('systemd')
    .description('as a unit: written, enabled and started')
    .addOption(
      new Option('--data <directory>', "the machine's directory")
        .default('/var/lib/capstan')
        .argParser((text: string) => resolve(text)),
    )
    .option('--root <directory>', 'write the files below it instead, and start nothing', '/')
    .option('--no-start', 'only write the files')
    .action(async (options) => installSystemd(options))

  program.exitOverride()
  try {
    await program.parseAsync(args, { from: 'user' })
  } catch (error) {
    if (error instanceof UserError) process.stderr.write(`${pc.red('capstan:')} ${error.message}\n`)
    else if ((error as { code?: string }).code?.startsWith('commander.'))
      process.exitCode = (error as { exitCode?: number }).exitCode ?? 1
    else
      process.stderr.write(
        `${pc.red('capstan:')} ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
      )
    if (!(error as { code?: string }).code?.startsWith('commander.')) process.exitCode = 1
  }
}
