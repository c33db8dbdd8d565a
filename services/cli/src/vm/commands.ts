/** The commands for machines on hosts of their own: `master`, `node`, `token`, `serve`, `leave`, `certs`. */
import { hostname } from 'node:os'
import { resolve } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { Progress } from '../console.js'
import { Places } from '../layout.js'
import { recoveryOf, withRecoveryFlags } from '../recovery-flags.js'
import { initMaster } from './init.js'
import { joinMaster, joinNode } from './join.js'
import { printCertificates } from './certs-list.js'
import { joinCommand } from './join-command.js'
import { printTokens, removeToken } from './token-commands.js'
import { parseTtlMs } from './join-tokens.js'
import { DATA_DIRECTORY, existingMachine, MASTER_PORTS, portFault, type Role } from './machine-file.js'
import { leave } from './leave.js'
import { removeMachine } from './remove.js'
import { startMachineProcess } from './machine-process.js'
import { serve } from './serve.js'

const YEAR = '8760h'

const data = () =>
  new Option('--data <directory>', "the machine's directory")
    .default(DATA_DIRECTORY)
    .argParser((text: string) => resolve(text))
const output = () => new Option('-o, --output <format>', 'format').choices(['text', 'json']).default('text')
const dataOf = (options: { data: string }) => resolve(options.data)

function port(text: string): number {
  const fault = portFault(Number(text))
  if (fault !== undefined) throw new InvalidArgumentError(fault)
  return Number(text)
}

function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('not a whole number')
  return Number(text)
}

function ttl(text: string): number | undefined {
  try {
    return parseTtlMs(text)
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

function lifeMs(text: string): number {
  const ms = ttl(text)
  if (ms === undefined || ms < 3000) throw new InvalidArgumentError('certificates must live for at least 3s')
  return ms
}

const name = () => hostname().toLowerCase()

function withPlace(command: Command): Command {
  return command
    .requiredOption('--address <address>', 'IPv4 address of this machine, by which the others reach it')
    .option('--name <name>', 'its name in the cluster; default: the host name', name())
    .addOption(data())
    .option('--no-start', 'only prepare the directory')
}

function withPorts(command: Command): Command {
  return command
    .option('--api-port <port>', 'the API (HTTPS)', port, MASTER_PORTS.apiPort)
    .option('--bus-port <port>', 'the bus, for components (NATS, TLS)', port, MASTER_PORTS.busPort)
    .option('--route-port <port>', "the bus, for the other masters' servers (NATS, TLS)", port, MASTER_PORTS.routePort)
    .option('--etcd-port <port>', 'the store as etcd (gRPC, TLS)', port, MASTER_PORTS.etcdPort)
    .option('--join-port <port>', 'where machines join (HTTPS)', port, MASTER_PORTS.joinPort)
}

function withToken(command: Command): Command {
  return command
    .argument('<host:port>', "a master's address and join port")
    .requiredOption('--token <token>', 'from capstan token create')
    .requiredOption('--ca-cert-hash <hash>', "sha256:… of the cluster's authority")
}

function addRemove(command: Command, role: Role): void {
  command
    .command('remove')
    .description(`take a ${role} out of the cluster, dead or alive; its credentials are void from then on`)
    .argument('<name>', `the ${role}`)
    .addOption(data())
    .action((machine: string, options) => removeMachine(dataOf(options), role, machine))
}

export function addMachineCommands(program: Command): void {
  const master = program.command('master').description('masters on machines of their own')
  const init = master.command('init').description('make a new cluster, with this machine as its first master')
  withRecoveryFlags(withPorts(withPlace(init)))
    .option('--pod-cidr <cidr>', 'addresses of pods', '10.244.0.0/16')
    .option('--service-cidr <cidr>', 'addresses of Services', '10.96.0.0/16')
    .option('--endpoint <host:port>', 'a load balancer or DNS name before the API servers')
    .option(
      '--certificate-validity <time>',
      'how long certificates live; renewed in the last third',
      lifeMs,
      lifeMs(YEAR),
    )
    .action(async (options) => {
      const commands = await initMaster({
        ...options,
        data: dataOf(options),
        certificateSeconds: options.certificateValidity / 1000,
        ...recoveryOf(options),
      })
      for (const { role, command } of commands)
        process.stdout.write(`# another ${role} joins by this, within 24 hours:\n${command}\n`)
    })
  withPorts(withToken(withPlace(master.command('join').description('make this machine one more master')))).action(
    (door: string, options) => joinMaster(door, { ...options, data: dataOf(options) }),
  )
  addRemove(master, 'master')

  const node = program.command('node').description('nodes on machines of their own')
  withToken(withPlace(node.command('join').description('make this machine a node')))
    .addOption(
      new Option('--runtime <kind>', 'what runs containers')
        .choices(['auto', 'containerd', 'process', 'hollow'])
        .default('auto'),
    )
    .option('--cgroup-parent <path>', "cgroup of its pods; default: below this shell's, or /capstan/NAME/pods")
    .action((door: string, options) => joinNode(door, { ...options, data: dataOf(options) }))

  addRemove(node, 'node')

  const token = program.command('token').description('what machines join by')
  token
    .command('create')
    .description('make one, and print the command that uses it')
    .addOption(new Option('--role <role>', 'what may join by it').choices(['master', 'node']).default('node'))
    .option('--ttl <time>', 'how long it is valid; 0: for ever', ttl, ttl('24h'))
    .option('--uses <count>', 'how many machines may join by it; default: any number', wholeNumber)
    .option('--description <text>', 'for people')
    .addOption(data())
    .action(async (options) => {
      const {
        role,
        ttl: ttlMs,
        uses,
        description,
      } = options as { role: Role; ttl?: number; uses?: number; description?: string }
      const command = await joinCommand(dataOf(options), {
        role,
        ttlMs,
        ...(uses === undefined ? {} : { uses }),
        ...(description === undefined ? {} : { description }),
      })
      process.stdout.write(`${command}\n`)
    })
  token
    .command('list')
    .description('list those that there are')
    .addOption(data())
    .addOption(output())
    .action((options) => printTokens(dataOf(options), options.output))
  token
    .command('delete')
    .description('nobody joins by it any more; who has joined stays')
    .argument('<token>', 'the token, or its first six characters')
    .addOption(data())
    .action((text: string, options) => removeToken(dataOf(options), text))

  program
    .command('certs')
    .description("list this machine's certificates: until when, whose, by which authority")
    .addOption(data())
    .addOption(output())
    .action((options) => printCertificates(dataOf(options), options.output))

  program
    .command('leave')
    .description('end this machine and remove all that it has on this host')
    .addOption(data())
    .action((options) => leave(dataOf(options)))

  program
    .command('serve')
    .description('run the machine of a directory, until SIGTERM')
    .addOption(data())
    .option('--detach', 'in the background', false)
    .option('--keep-pods', "when it ends, let a node's containers go on; its next start finds them", false)
    .action(async (options) => {
      const places = new Places(dataOf(options))
      if (!options.detach) return serve(places.data, { keepPods: options.keepPods })
      const machine = existingMachine(places)
      startMachineProcess(places, machine)
      new Progress().done(`${machine.name} starts; its log: ${places.log(machine.name)}`)
    })
}
