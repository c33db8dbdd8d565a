/** `capstan doctor`: is this host fit for a machine of Capstan, and is the machine that it has well? */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import pc from 'picocolors'
import { UserError } from '../console.js'
import { liveProcess } from '../process-file.js'
import { MASTER_PORTS, type MasterPorts } from '../vm/machine-file.js'
import {
  type Finding,
  forwardDrops,
  judgeCertificates,
  judgeCgroups,
  judgeForwardDrops,
  judgeFree,
  judgeKernel,
  judgeMemory,
  judgeMtu,
  judgeOffset,
  judgeOpenFiles,
  judgePorts,
  judgeProgram,
  judgeReached,
  judgeSecrets,
  judgeSwap,
  judgeSync,
  judgeSynchronised,
  type PortState,
  type Reached,
  type Role,
} from './judge.js'
import * as probe from './probe.js'

export interface DoctorOptions {
  data: string
  /** Default: what the directory holds; without a machine there, both. */
  role?: Role
  output: 'text' | 'json'
}

const USES: Record<keyof MasterPorts, string> = {
  apiPort: 'API',
  busPort: 'bus',
  routePort: 'bus between masters',
  etcdPort: 'etcd face',
  joinPort: 'joining machines',
}

/** As much of a machine's directory as is looked at; see `vm/machine-file.ts`. */
interface Machine extends Partial<MasterPorts> {
  name: string
  role: Role
  address: string
}

/** @throws UserError for files that cannot be read */
function machineOf(data: string): { machine: Machine | undefined; masters: (Machine & MasterPorts)[] } {
  const json = <T>(name: string, none: T): T => {
    const file = join(data, name)
    if (!existsSync(file)) return none
    try {
      return JSON.parse(readFileSync(file, 'utf8')) as T
    } catch (error) {
      throw new UserError(`${file} is damaged: ${(error as Error).message}`)
    }
  }
  return { machine: json<Machine | undefined>('machine.json', undefined), masters: json('masters.json', []) }
}

/** All findings, in the order in which they are shown. Takes a few seconds: the disk is timed. */
export async function examine(options: Pick<DoctorOptions, 'data' | 'role'>): Promise<Finding[]> {
  const { data } = options
  const { machine, masters } = machineOf(data)
  const roles: Role[] = options.role ? [options.role] : machine ? [machine.role] : ['master', 'node']
  const isMaster = roles.includes('master')
  const isNode = roles.includes('node')
  const strictest: Role = isMaster ? 'master' : 'node'
  const others = masters.filter((one) => one.name !== machine?.name)
  const findings: Finding[] = []
  const add = (...more: Finding[]) => void findings.push(...more)

  add(judgeSynchronised(await probe.isClockSynchronised()))
  const clocks = await Promise.all(others.map((one) => probe.askClock(one.name, one.address, one.apiPort)))
  for (const offset of clocks) if (offset) add(judgeOffset(offset))

  add(judgeFree(probe.freeSpace(data)))
  add(judgeSync(probe.timeSyncs(data), strictest))
  add(judgeMemory(probe.memoryBytes(), strictest))

  if (isMaster) add(...(await examinePorts(data, machine)))
  const targets = others.flatMap((one): [what: string, host: string, port: number][] => [
    [`${one.name} (bus, ${one.address}:${one.busPort})`, one.address, one.busPort],
    ...(isMaster
      ? [
          [`${one.name} (bus between masters, ${one.address}:${one.routePort})`, one.address, one.routePort] as [
            string,
            string,
            number,
          ],
        ]
      : []),
  ])
  const reached = await Promise.all(
    targets.map(async ([what, host, port]): Promise<Reached> => {
      const problem = await probe.reachProblem(host, port)
      return problem === undefined ? { what } : { what, problem }
    }),
  )
  add(...judgeReached(reached))
  if (machine) add(judgeMtu(probe.linkOf(machine.address), machine.address, machine.role))

  if (isNode) {
    add(judgeCgroups(probe.cgroups()))
    add(...judgeKernel(await probe.kernelFeatures()))
    add(...judgeForwardDrops(forwardDrops(await probe.nftRuleset())))
  }
  const programs = [...(isMaster ? await probe.masterPrograms() : []), ...(isNode ? await probe.nodePrograms() : [])]
  for (const program of new Map(programs.map((one) => [one.name, one])).values()) add(judgeProgram(program))

  const { certificates, secrets } = probe.keptFiles(data)
  add(...judgeCertificates(certificates, Date.now()), ...judgeSecrets(secrets))
  add(judgeSwap(probe.swapDevices(), strictest), judgeOpenFiles(probe.openFiles()))
  return findings
}

async function examinePorts(data: string, machine: Machine | undefined): Promise<Finding[]> {
  const run = join(data, 'run')
  const own = new Set(
    (existsSync(run) ? readdirSync(run) : [])
      .filter((file) => file.endsWith('.json'))
      .map((file) => liveProcess(join(run, file)))
      .filter((pid) => pid !== undefined),
  )
  const isOurs = (pid: number) =>
    probe.ancestry(pid).some((one) => own.has(one)) || probe.commandOf(pid).includes(`${data}/`)
  const states: PortState[] = []
  for (const key of Object.keys(MASTER_PORTS) as (keyof MasterPorts)[]) {
    const port = machine?.[key] ?? MASTER_PORTS[key]
    const state = { port, use: USES[key] }
    // An address that this host has not: the check of the link says so.
    const isTaken = await probe.isPortTaken(machine?.address ?? '0.0.0.0', port).catch(() => false)
    if (!isTaken) states.push({ ...state, holder: 'nobody' })
    else {
      const pids = probe.listenersOn(port)
      const other = pids.find((pid) => !isOurs(pid))
      if (pids.length > 0 && other === undefined) states.push({ ...state, holder: 'this machine' })
      else
        states.push({
          ...state,
          holder: { process: other === undefined ? 'some process' : `process ${other}: ${probe.commandOf(other)}` },
        })
    }
  }
  return judgePorts(states, machine !== undefined && own.size > 0)
}

/** Exit code 1 if something failed. */
export async function doctor(options: DoctorOptions): Promise<void> {
  const findings = await examine(options)
  process.stdout.write(options.output === 'json' ? `${JSON.stringify(findings, null, 2)}\n` : textOf(findings))
  if (findings.some((one) => one.verdict === 'failed')) process.exitCode = 1
}

export function textOf(findings: readonly Finding[]): string {
  const mark = { ok: pc.green('ok     '), warning: pc.yellow('warning'), failed: pc.red('FAILED ') }
  const width = Math.max(...findings.map((one) => one.check.length))
  const lines = findings.map(({ verdict, check, text, advice }) => {
    const line = `${mark[verdict]}  ${check.padEnd(width)}  ${text}`
    return advice === undefined ? line : `${line}\n${' '.repeat(11 + width)}${pc.dim(`→ ${advice}`)}`
  })
  const count = (verdict: Finding['verdict']) => findings.filter((one) => one.verdict === verdict).length
  return `${lines.join('\n')}\n${count('ok')} ok, ${count('warning')} warnings, ${count('failed')} failed\n`
}
