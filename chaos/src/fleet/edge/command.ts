import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { isolated, type MachineOptions } from '../plan.js'
import { Fleet } from './fleet.js'
import { withCapstan } from './with-capstan.js'

const PROJECT = join(import.meta.dirname, '../../../..')
const MIB = 1024 * 1024

export const FLEET_USAGE = `fleet COMMAND [--directory D]     machines on this host, each a set of namespaces (default directory: .fleet)

  up [--masters N] [--nodes N] [--zones N] [--delay MS] [--jitter MS] [--disk MIB]
                                  builds a fleet; machines find this build of capstan in their PATH
  exec MACHINE -- COMMAND...      runs a command in a machine, on this terminal
  list                            machines, their addresses and how much runs in them
  down                            takes all down; the machines' directories stay

  cut FROM TO | isolate MACHINE | delay FROM TO MS | loss FROM TO SHARE | duplicate, reorder, corrupt FROM TO SHARE
  bandwidth FROM TO BYTES_PER_SECOND     faults of the wire, in force until "heal"; "host" is this host
  faults                          what is in force, proved anew; and what cannot be made
  heal                            undoes them
  kill MACHINE | pause MACHINE | resume MACHINE | power-cycle MACHINE`

/** `fleet …`. @returns the exit code. */
export async function fleetCommand(args: readonly string[]): Promise<number> {
  const dashes = args.indexOf('--')
  const command = dashes < 0 ? [] : args.slice(dashes + 1)
  const { values, positionals } = parseArgs({
    args: [...(dashes < 0 ? args : args.slice(0, dashes))],
    allowPositionals: true,
    options: {
      directory: { type: 'string', default: '.fleet' },
      masters: { type: 'string', default: '3' },
      nodes: { type: 'string', default: '3' },
      zones: { type: 'string', default: '1' },
      delay: { type: 'string', default: '0' },
      jitter: { type: 'string', default: '0' },
      disk: { type: 'string' },
    },
  })
  const directory = resolve(values.directory)
  const [action = '', ...names] = positionals
  const say = (text: string) => process.stdout.write(`${text}\n`)
  const argument = (i: number, what: string) => {
    const name = names[i]
    if (name === undefined) throw new Error(`fleet ${action}: which ${what}?`)
    return name
  }
  const machineOf = () => Fleet.open(directory).machine(argument(0, 'machine'))

  switch (action) {
    case 'up': {
      const zones = whole('zones', values.zones, 1, 26)
      const make = (kind: string, count: number): MachineOptions[] =>
        Array.from({ length: count }, (_, i) => ({
          name: `${kind}-${i}`,
          zone: String.fromCharCode(97 + (i % zones)),
          ...(values.disk ? { diskBytes: whole('disk', values.disk, 16, 1e6) * MIB } : {}),
        }))
      const machines = [
        ...make('master', whole('masters', values.masters, 0, 50)),
        ...make('node', whole('nodes', values.nodes, 0, 150)),
      ]
      const started = performance.now()
      const distance = {
        delayMs: whole('delay', values.delay, 0, 10_000),
        jitterMs: whole('jitter', values.jitter, 0, 10_000),
      }
      const fleet = await Fleet.create(withCapstan({ directory, machines, zones: distance }, PROJECT))
      say(list(fleet))
      say(`${machines.length} machines stand after ${((performance.now() - started) / 1000).toFixed(1)} s`)
      return 0
    }
    case 'exec': {
      const rest = command.length > 0 ? command : names.slice(1)
      if (rest.length === 0) throw new Error('fleet exec MACHINE -- COMMAND...: which command?')
      return machineOf().runHere(rest)
    }
    case 'list':
      say(list(Fleet.open(directory)))
      return 0
    case 'down':
      await Fleet.clear(directory)
      say(`taken down; the machines' directories stay in ${directory}`)
      return 0
    case 'cut':
    case 'isolate':
    case 'delay':
    case 'loss':
    case 'duplicate':
    case 'reorder':
    case 'corrupt':
    case 'bandwidth': {
      const fleet = Fleet.open(directory)
      const { network } = fleet
      const from = argument(0, 'machine')
      const link = () => [from, argument(1, 'machine')] as const
      const amount = () => Number(argument(2, 'amount'))
      const done =
        action === 'isolate'
          ? network.cutAll(isolated(from, fleet.names), `${from} isolated`)
          : action === 'cut'
            ? network.cut(...link())
            : network[action](...link(), amount())
      say((await done).proof)
      return 0
    }
    case 'faults': {
      const { network } = Fleet.open(directory)
      const proofs = await network.inForce()
      for (const { inForce, proof } of proofs) say(`${inForce ? 'in force' : 'NOT in force'}: ${proof}`)
      if (proofs.length === 0) say('no fault is in force')
      for (const { what, why } of network.cannot) say(`cannot be made here: ${what} (${why})`)
      return proofs.every((proof) => proof.inForce) ? 0 : 1
    }
    case 'heal':
      say(await Fleet.open(directory).network.heal())
      return 0
    case 'kill':
      say(await machineOf().kill())
      return 0
    case 'pause':
      say((await machineOf().pause()).proof)
      return 0
    case 'resume':
      say(await machineOf().resume())
      return 0
    case 'power-cycle':
      say(await machineOf().powerCycle())
      return 0
    default:
      process.stderr.write(`${FLEET_USAGE}\n`)
      return 1
  }
}

function list(fleet: Fleet): string {
  const rows = fleet.machines.map((m) => [m.name, m.zone, m.address, m.isOn ? String(m.pids().length) : 'off'])
  return [['MACHINE', 'ZONE', 'ADDRESS', 'PROCESSES'], ...rows]
    .map((row) =>
      row
        .map((cell) => cell.padEnd(14))
        .join('')
        .trimEnd(),
    )
    .join('\n')
}

function whole(name: string, text: string, least: number, most: number): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < least || value > most)
    throw new Error(`--${name} must be a whole number from ${least} to ${most}`)
  return value
}
