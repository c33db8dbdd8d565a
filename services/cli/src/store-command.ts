/** `capstan store …`: what an operator asks of the store, and does to its directories when it does not run. */
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { CallError, Caller } from '@capstan/actor'
import {
  type AlarmKind,
  type AlarmReply,
  type BackupData,
  type MembersReply,
  type MetricsReply,
  type StoreStatusReply,
  type StoreVerb,
  Subjects,
} from '@capstan/protocol'
import { LmdbStateEngine, RealClock, RealDisk, RealRandom, silentLog } from '@capstan/real'
import {
  backupDirectory,
  type BackupFile,
  type BackupHeader,
  type DirectorySummary,
  inspectDirectory,
  verifyBackup,
  restoreDirectory,
  StoreError,
} from '@capstan/store'
import { printTable, Progress, UserError } from './console.js'
import { existingLayout } from './layout-file.js'
import { Places } from './layout.js'
import { runningProcesses } from './machines.js'
import { renewClusterId } from './pki.js'
import { adminWorld } from './vm/admin-access.js'
import { beginAnew, existingMaster, readMachine, readMasters } from './vm/machine-file.js'
import { machinePid } from './vm/machine-process.js'
import { MastersList } from './vm/masters-list.js'
import { type BusWorld, realWorld } from './worlds.js'

const ANSWER_MS = 5000
const STATUS_MS = 1500
const BACKUP_OPEN_MS = 10_000
const PROMOTE_MS = 120_000
const PROMOTE_PAUSE_MS = 500

type Format = 'text' | 'json'

// ------------------------------------------------------------------------------------------------------ asked of the store

class StoreAdmin {
  private constructor(
    /** Masters as the directory knows them. */
    readonly masters: readonly string[],
    private readonly caller: Caller,
    private readonly world: BusWorld,
    private readonly subjects: Subjects,
  ) {}

  static async use<T>(data: string, work: (admin: StoreAdmin) => Promise<T>): Promise<T> {
    const { cluster, masters, connect } = whoIsAsked(data)
    const world = await connect(AbortSignal.timeout(ANSWER_MS)).catch(() => {
      throw new UserError('no bus server answers: is the cluster running?')
    })
    const caller = new Caller(world)
    try {
      return await work(new StoreAdmin(masters, caller, world, new Subjects(cluster)))
    } catch (error) {
      if (error instanceof CallError) throw new UserError(tellFailure(error))
      throw error
    } finally {
      caller.close()
      await world.bus.close()
    }
  }

  /** The masters, and who else is a member. */
  async names(): Promise<string[]> {
    const asked = await Promise.all(this.masters.map((name) => this.status(name)))
    const told = asked.flatMap((status) => status?.members ?? [])
    return [...new Set([...this.masters, ...told])].sort()
  }

  ask(member: string, verb: StoreVerb, body: unknown, timeoutMs = ANSWER_MS): Promise<unknown> {
    return this.caller.call(this.subjects.store(member, this.world.bus.identity, verb), body, { timeoutMs })
  }

  /** Asks one member after the other until one takes it. What may have happened is not asked twice. */
  async askAny(verb: StoreVerb, body: unknown): Promise<unknown> {
    let last: unknown
    for (const name of this.masters)
      try {
        return await this.ask(name, verb, body)
      } catch (error) {
        last = error
        const passing = error instanceof CallError && ['NO_RESPONDERS', 'STOPPED', 'OVERLOADED'].includes(error.code)
        if (!passing) throw error
      }
    throw last
  }

  status(member: string): Promise<StoreStatusReply | undefined> {
    return this.ask(member, 'status', {}, STATUS_MS).then(
      (status) => status as StoreStatusReply,
      () => undefined,
    )
  }

  /** Gives the pieces of a backup to `write`, in order. */
  backup(member: string, write: (piece: Uint8Array) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      let complete = false
      this.caller.openStream(
        this.subjects.store(member, this.world.bus.identity, 'backup'),
        { linearizable: true },
        {
          data: (data) => {
            const { data: piece, done } = data as BackupData
            write(piece)
            complete = done
          },
          end: (reason, error) => {
            if (complete) resolve()
            else reject(error ?? new UserError(`the backup ended early: ${reason}`))
          },
        },
        { timeoutMs: BACKUP_OPEN_MS, creditsMax: 8 },
      )
    })
  }
}

interface Asked {
  cluster: string
  masters: string[]
  /** As an administrator. */
  connect(signal: AbortSignal): Promise<BusWorld>
}

/** Of a cluster of `capstan up`, or of a master on a machine of its own. @throws UserError */
function whoIsAsked(data: string): Asked {
  const places = new Places(data)
  if (readMachine(places)) {
    const machine = existingMaster(places)
    const masters = new MastersList(places)
    return {
      cluster: machine.settings.cluster,
      masters: masters.all.map(({ name }) => name),
      connect: (signal) => adminWorld(places, machine, masters, signal),
    }
  }
  const layout = existingLayout(places)
  if (layout.bus === 'memory')
    throw new UserError('this cluster has the in-process bus: nobody outside its process can ask its store')
  return {
    cluster: layout.cluster,
    masters: layout.masters.map(({ name }) => name),
    connect: (signal) =>
      realWorld(layout, places, { component: 'admin', name: 'cli' }, { log: silentLog, machine: '', signal }),
  }
}

function tellFailure({ code, message, outcome }: CallError): string {
  return `${code}: ${message} (${outcome === 'not-applied' ? 'it did not happen' : 'it may have happened: look before repeating'})`
}

export async function storeStatus(data: string, format: Format): Promise<void> {
  await StoreAdmin.use(data, async (admin) => {
    const names = await admin.names()
    const all = await Promise.all(names.map(async (name) => ({ name, status: await admin.status(name) })))
    if (format === 'json') return print(JSON.stringify(all, null, 2))
    printTable([
      ['MEMBER', 'ROLE', 'VERSION', 'TERM', 'COMMIT', 'APPLIED', 'REVISION', 'SIZE', 'HEARS'],
      ...all.map(({ name, status: s }) =>
        s
          ? [
              name,
              s.role,
              // Of the cluster, and up to what its program supports.
              `${s.clusterVersion}/${s.supportedVersions?.max ?? 1}`,
              String(s.term),
              String(s.commitIndex),
              String(s.appliedIndex),
              String(s.header.revision),
              sizeText(s.dbSizeBytes),
              s.peersHeard.join(' '),
            ]
          : [name, 'down', '-', '-', '-', '-', '-', '-', ''],
      ),
    ])
    for (const { name, status } of all) for (const error of status?.errors ?? []) print(`${name}: ${error}`)
  })
}

export async function storeMembers(data: string, format: Format): Promise<void> {
  await StoreAdmin.use(data, async (admin) => {
    const { members } = (await admin.askAny('members', {})) as MembersReply
    if (format === 'json') return print(JSON.stringify(members, null, 2))
    printTable([['MEMBER', 'KIND'], ...members.map(({ name, learner }) => [name, learner ? 'learner' : 'voter'])])
  })
}

/** `add` waits until the new member has caught up, and makes it a voter; `remove` says what is left. */
export async function changeStoreMembers(data: string, action: string, member: string): Promise<void> {
  if (action !== 'add' && action !== 'remove') throw new UserError(`members are added or removed, not "${action}"`)
  await StoreAdmin.use(data, async (admin) => {
    const progress = new Progress()
    if (action === 'remove') await admin.askAny('memberRemove', { member })
    else {
      const { members } = (await admin.askAny('members', {})) as MembersReply
      const known = members.find(({ name }) => name === member)
      if (!known) await admin.askAny('memberAdd', { member })
      if (!known || known.learner) await promote(admin, member, progress)
    }
    const { members } = (await admin.askAny('members', {})) as MembersReply
    progress.done(`members: ${members.map(({ name, learner }) => (learner ? `${name} (learner)` : name)).join(', ')}`)
  })
}

async function promote(admin: StoreAdmin, member: string, progress: Progress): Promise<void> {
  const until = performance.now() + PROMOTE_MS
  let told = ''
  for (;;)
    try {
      await admin.askAny('memberPromote', { member })
      return
    } catch (error) {
      const waits = error instanceof CallError && ['LEARNER_NOT_READY', 'MEMBERS_BUSY'].includes(error.code)
      if (!waits || performance.now() > until) throw error
      if (error.message !== told) progress.step(error.message)
      told = error.message
      await new Promise((resolve) => setTimeout(resolve, PROMOTE_PAUSE_MS))
    }
}

export async function storeAlarms(data: string, clear: string | undefined, format: Format): Promise<void> {
  await StoreAdmin.use(data, async (admin) => {
    if (clear !== undefined && clear !== 'NOSPACE' && clear !== 'CORRUPT')
      throw new UserError(`there is no alarm "${clear}"; alarms: NOSPACE, CORRUPT`)
    if (clear !== undefined) await admin.askAny('alarm', { action: 'clear', alarm: clear as AlarmKind })
    const { alarms } = (await admin.askAny('alarm', { action: 'list' })) as AlarmReply
    if (format === 'json') return print(JSON.stringify(alarms, null, 2))
    if (alarms.length === 0) return print('no alarms')
    const rows = alarms.map(({ member, alarm, byHand }) => [member, alarm, byHand ? 'operator' : 'itself'])
    printTable([['MEMBER', 'ALARM', 'RAISED BY'], ...rows])
  })
}

export async function storeMetrics(data: string, member: string): Promise<void> {
  await StoreAdmin.use(data, async (admin) => {
    process.stdout.write(((await admin.ask(member, 'metrics', {})) as MetricsReply).text)
  })
}

// --------------------------------------------------------------------------------------------------------------- backups

/** Everything that was acknowledged before it began, in one file, checked after it was written. */
export async function storeBackup(data: string, file: string, member: string | undefined): Promise<void> {
  await StoreAdmin.use(data, async (admin) => {
    const progress = new Progress()
    const from = member ?? (await followerOf(admin))
    await writeWhole(file, (write) => admin.backup(from, write))
    progress.done(`${file}: ${describe(await check(file))}`)
  })
}

/** One that is well and does not lead: the leader has enough to do. */
async function followerOf(admin: StoreAdmin): Promise<string> {
  const all = await Promise.all(admin.masters.map(async (name) => ({ name, status: await admin.status(name) })))
  const well = all.filter(({ status }) => status?.leader !== undefined)
  const best = well.find(({ status }) => status?.role === 'follower') ?? well[0]
  if (!best) throw new UserError('no member has a leader; what one member has can be kept by: capstan store recover')
  return best.name
}

export async function storeVerify(file: string): Promise<void> {
  print(`${file}: ${describe(await check(file))}`)
}

/** Makes the members of a stopped cluster anew from a backup. What they had stays beside, until the next time. */
export async function storeRestore(data: string, file: string): Promise<void> {
  const stopped = stoppedStore(data)
  const progress = new Progress()
  progress.step(`${file}: ${describe(await check(file))}`)
  const revision = await restoreAll(stopped, file, progress)
  progress.done(`restored at revision ${revision}; ${stopped.whatNext}`)
}

/**
 * For a quorum that is lost for good. Without `confirmed` it only says what would be kept and what could be lost.
 */
export async function storeRecover(data: string, from: string | undefined, confirmed: boolean): Promise<void> {
  const stopped = stoppedStore(data)
  const { places, masters } = stopped
  const progress = new Progress()
  const found: DirectorySummary[] = []
  for (const name of stopped.members)
    try {
      found.push(await inspectDirectory(directoryAt(storeOf(places, name))))
    } catch (error) {
      progress.warn(`${name}: cannot be used: ${error instanceof Error ? error.message : String(error)}`)
    }
  found.sort((a, b) => b.lastTerm - a.lastTerm || b.lastIndex - a.lastIndex)
  const best = from === undefined ? found[0] : found.find(({ member }) => member === from)
  if (!best) throw new UserError('no directory of a member is left that could be used: restore a backup')
  for (const one of found)
    progress.step(
      `${one.member}: entries up to ${one.lastIndex} of term ${one.lastTerm}, known as committed up to ${one.commitIndex}`,
    )
  const enough = found.length >= Math.floor(masters / 2) + 1
  if (enough)
    progress.warn(
      `${found.length} of ${masters} members can be used, a majority: to start them as they are loses nothing`,
    )
  const lost =
    `kept: all that ${best.member} has, its last ${best.lastIndex - best.commitIndex} entries not known as committed among it. ` +
    `Lost may be: every write that was acknowledged by the others alone (after entry ${best.lastIndex}), whatever their number`
  if (!confirmed) throw new UserError(`${lost}. Nothing was done. To go on: --yes-i-may-lose-data`)
  progress.warn(lost)
  const file = join(places.data, `recovered-from-${best.member}.backup`)
  await writeWhole(file, async (write) => {
    await backupDirectory(
      directoryAt(storeOf(places, best.member)),
      { cluster: stopped.cluster, clock: new RealClock() },
      write,
    )
  })
  progress.step(`${file}: ${describe(await check(file))}`)
  const revision = await restoreAll(stopped, file, progress)
  progress.done(`a new cluster at revision ${revision}; ${stopped.whatNext}`)
}

async function restoreAll(stopped: StoppedStore, file: string, progress: Progress): Promise<number> {
  const { places, members } = stopped
  const clusterId = stopped.renewClusterId()
  let revision = 0
  for (const member of members) {
    const made = `${storeOf(places, member)}.restored`
    rmSync(made, { recursive: true, force: true })
    const header = await withFile(file, (backup) =>
      restoreDirectory(backup, directoryAt(made), { clusterId, member, members, random: new RealRandom() }),
    )
    revision = header.restoredRevision
  }
  // All of them are whole: now they take the place of what was there. Members of two clusters refuse each other.
  for (const member of members) {
    const store = storeOf(places, member)
    const before = `${store}.before-restore`
    rmSync(before, { recursive: true, force: true })
    const hadOne = existsSync(store)
    if (hadOne) renameSync(store, before)
    renameSync(`${store}.restored`, store)
    progress.step(`${member}: made anew${hadOne ? `; what it had is in ${before}` : ''}`)
  }
  return revision
}

/** What can be made anew in one place: of `capstan up` all members, of a master on a machine of its own that one alone. */
interface StoppedStore {
  places: Places
  cluster: string
  /** Those whose directories are here; afterwards they are all that there are. */
  members: string[]
  /** How many the cluster had. */
  masters: number
  /** No directory of the former cluster is taken for one of the new. */
  renewClusterId(): string
  whatNext: string
}

/** @throws UserError if it runs */
function stoppedStore(data: string): StoppedStore {
  const places = new Places(data)
  if (readMachine(places)) {
    const machine = existingMaster(places)
    refuseRunning(machinePid(places, machine) === undefined ? [] : [machine.name])
    return {
      places,
      cluster: machine.settings.cluster,
      members: [machine.name],
      masters: readMasters(places).length,
      renewClusterId: () => beginAnew(places, machine),
      whatNext:
        `start it by: capstan serve. The other masters must not be started again: capstan leave on each, ` +
        `capstan master remove NAME here, and then they may join`,
    }
  }
  const layout = existingLayout(places)
  refuseRunning(runningProcesses(layout, places))
  return {
    places,
    cluster: layout.cluster,
    members: layout.masters.map(({ name }) => name),
    masters: layout.masters.length,
    renewClusterId: () => renewClusterId(places),
    whatNext: 'start it with: capstan up',
  }
}

function refuseRunning(running: readonly string[]): void {
  if (running.length > 0) throw new UserError(`${running.join(', ')} still run: capstan stop first`)
}

const storeOf = (places: Places, member: string) => join(places.machine(member), 'store')

const directoryAt = (path: string) => ({
  disk: new RealDisk(path),
  openEngine: () => new LmdbStateEngine(join(path, 'state')),
})

async function check(file: string): Promise<BackupHeader> {
  return withFile(file, (backup) => verifyBackup(backup))
}

async function withFile<T>(file: string, use: (backup: BackupFile) => Promise<T>): Promise<T> {
  const handle = await open(file, 'r').catch((error: NodeJS.ErrnoException) => {
    throw new UserError(`${file}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`)
  })
  try {
    const { size: sizeBytes } = await handle.stat()
    const read = async (offset: number, length: number) => {
      const { buffer, bytesRead } = await handle.read(new Uint8Array(length), 0, length, offset)
      if (bytesRead !== length) throw new UserError(`${file}: it became shorter while it was read`)
      return buffer
    }
    return await use({ sizeBytes, read })
  } catch (error) {
    if (error instanceof StoreError) throw new UserError(`${file}: ${error.message}`)
    throw error
  } finally {
    await handle.close()
  }
}

/** The file is there whole and durable, or not at all. */
async function writeWhole(file: string, fill: (write: (piece: Uint8Array) => void) => Promise<void>): Promise<void> {
  const part = `${file}.part`
  const out = openSync(part, 'w', 0o600)
  try {
    await fill((piece) => {
      for (let at = 0; at < piece.length; ) at += writeSync(out, piece, at)
    })
    fsyncSync(out)
  } catch (error) {
    closeSync(out)
    rmSync(part, { force: true })
    throw error
  }
  closeSync(out)
  renameSync(part, file)
}

function describe(header: BackupHeader): string {
  const made = new Date(header.madeMs).toISOString()
  return `whole; ${header.keys} keys at revision ${header.revision}, of cluster ${header.cluster} (${header.clusterId}), made by ${header.member} at ${made}`
}

function sizeText(bytes: number): string {
  return bytes < 1024 * 1024 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`
}

function print(text: string): void {
  process.stdout.write(`${text}\n`)
}
