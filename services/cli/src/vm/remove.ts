/** `capstan master remove` and `capstan node remove`: a machine is no part of the cluster any more, whether it lives or not. */
import { readFileSync } from 'node:fs'
import { CallError } from '@capstan/actor'
import { accountJwt, makeSystemUser } from '@capstan/certs'
import { RESOURCES } from '@capstan/client'
import { pushAccountJwt, silentLog } from '@capstan/real'
import { Progress, UserError } from '../console.js'
import { type AdminAccess, asAdmin } from './admin-access.js'
import { readAuthorities } from './authorities.js'
import { busServersOf, machineFiles, type Role } from './machine-file.js'
import { ClusterRecords } from './records.js'

/**
 * May be repeated: what is done already is left, and the machine's record goes last.
 * @throws UserError
 */
export async function removeMachine(data: string, role: Role, name: string): Promise<void> {
  const progress = new Progress()
  await asAdmin(data, async (admin) => {
    const records = new ClusterRecords(admin.client)
    const machine = await records.machine(name)
    if (machine?.role !== role) throw new UserError(await unknownText(records, role, name))
    if (name === admin.machine.name)
      throw new UserError(`${name} is this master: remove it from another one, then clear it by capstan leave`)
    if (role === 'master') {
      await removeMember(admin, name)
      await records.removeMaster(name)
      progress.step(`${name} is no member of the store any more`)
    }
    // Before its Node goes: it must not come back by a last word of its kubelet.
    await records.revoke(Object.values(machine.busKeys), Date.now())
    await pushRevocations(admin, records)
    progress.step(`credentials of ${name} are void; its connections end`)
    if (role === 'node') await deleteNode(admin, name)
    await records.unregister(name)
  })
  progress.done(`${name} is removed. On the machine itself, if it lives: capstan leave`)
}

async function unknownText(records: ClusterRecords, role: Role, name: string): Promise<string> {
  const all = (await records.machines()).filter((machine) => machine.role === role)
  return `there is no ${role} ${name}; ${role}s: ${all.map((machine) => machine.name).join(', ') || 'none'}`
}

async function removeMember({ members }: AdminAccess, name: string): Promise<void> {
  try {
    await members.remove(name)
  } catch (error) {
    if (!(error instanceof CallError)) throw error
    const outcome = error.outcome === 'not-applied' ? 'nothing happened' : 'it may have happened'
    throw new UserError(`the store does not let ${name} go: ${error.message} (${error.code}; ${outcome})`)
  }
}

/** To the servers that run, at once; each master does the same with its own when it next looks. */
async function pushRevocations({ places, machine, masters }: AdminAccess, records: ClusterRecords): Promise<void> {
  const { bus } = readAuthorities(places)
  const files = machineFiles(places)
  await pushAccountJwt({
    servers: busServersOf(masters.all, machine.name),
    credentials: await makeSystemUser(bus),
    accountJwt: await accountJwt({ ...bus, revocations: await records.revocations() }),
    log: silentLog,
    ca: readFileSync(files.busCa, 'utf8'),
    clientCertificate: files.pair('machine'),
  })
}

async function deleteNode({ client }: AdminAccess, name: string): Promise<void> {
  try {
    await client.delete(RESOURCES.nodes, { name })
  } catch (error) {
    if (!(error instanceof CallError && error.code === 'NotFound')) throw error
  }
}
