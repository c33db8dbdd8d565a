/** What a join door decides: whom it lets in, and what it gives them. */
import { CallError } from '@capstan/actor'
import { signCertificateRequest } from '@capstan/certs'
import { type ApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import type { Authorities } from './authorities.js'
import { machineUser, validityOf } from './certificates.js'
import { signBusUsers } from './identities.js'
import type { JoinAnswer, JoinRequest, RenewAnswer, RenewRequest } from './join-messages.js'
import { checkToken, TokenRefused, useToken } from './join-tokens.js'
import { type ClusterSettings, type MasterRecord, type Role } from './machine-file.js'
import { ClusterRecords, type MachineRecord } from './records.js'

export class Refused extends Error {
  override readonly name = 'Refused'
  constructor(
    readonly status: number,
    text: string,
  ) {
    super(text)
  }
}

export interface DoorContext {
  settings: ClusterSettings
  client: ApiClient
  /** As they are now: revocations come in while a master runs. */
  authorities(): Authorities
  /** A member of the store by this name, as a learner. Idempotent. */
  addStoreMember(name: string): Promise<void>
}

interface Node extends KubeObject {
  status?: { conditions?: { type: string; status: string }[] }
}

/**
 * Lets a machine in. Repeated with the same keys it gives the same again: an answer may have been lost on its way.
 * @throws Refused
 */
export async function admitMachine(context: DoorContext, joining: JoinRequest): Promise<JoinAnswer> {
  const { client, settings } = context
  const { role, name, address, busKeys } = joining
  const records = new ClusterRecords(client)
  const known = await records.machine(name)
  const again = known !== undefined && isSame(known, joining)
  await refused(checkToken(client, joining.token, role, again))
  if (known && !again) throw taken(known, role)
  const authorities = context.authorities()
  const certificate = await certificateFor(authorities, settings, joining.request, { role, name })
  if (!known) {
    if (role === 'node' && (await isLiveNode(client, name)))
      throw new Refused(409, `a node ${name} is Ready in this cluster; join under another --name`)
    if (!(await records.register({ role, name, address, busKeys })))
      throw new Refused(503, `another machine is just joining as ${name}; try again`)
    // After it: whoever has to repeat all this because an answer was lost is known, and takes no second use.
    await refused(useToken(client, joining.token, role)).catch(async (error: unknown) => {
      if (error instanceof Refused) await records.unregister(name)
      throw error
    })
  }
  if (joining.ports) {
    await records.addMaster({ name, address, ...joining.ports })
    await context.addStoreMember(name)
  }
  return {
    settings,
    masters: await mastersNow(records),
    certificate,
    busCa: authorities.certificates['bus-ca'].cert,
    busJwts: await signBusUsers(authorities.bus, settings.cluster, joining, busKeys),
    ...(role === 'master' ? { authorities } : {}),
  }
}

async function refused(work: Promise<void>): Promise<void> {
  try {
    await work
  } catch (error) {
    if (error instanceof TokenRefused) throw new Refused(401, error.message)
    throw error
  }
}

/** The machine itself, once more: an answer may have been lost, or its certificate has expired. */
const isSame = (known: MachineRecord, { role, busKeys }: JoinRequest): boolean =>
  known.role === role && Object.entries(busKeys).every(([token, key]) => known.busKeys[token] === key)

function taken({ role: held, name, address }: MachineRecord, role: Role): Refused {
  if (held !== role)
    return new Refused(
      409,
      `${name} is the name of a ${held} of this cluster; a ${role} needs another one (--name), and on the same host --data of its own`,
    )
  return new Refused(
    409,
    `a ${role} named ${name} (${address}) belongs to this cluster; ` +
      `join under another --name, or, if it is gone for good, first: capstan ${role} remove ${name}`,
  )
}

/** For a machine that has shown a valid certificate. @throws Refused */
export async function renewCertificate(
  context: DoorContext,
  machine: { role: Role; name: string },
  { request }: RenewRequest,
): Promise<RenewAnswer> {
  const records = new ClusterRecords(context.client)
  const known = await records.machine(machine.name)
  if (known?.role !== machine.role)
    throw new Refused(
      403,
      `${machine.role} ${machine.name} was removed from the cluster; it may join again with a token`,
    )
  return {
    certificate: await certificateFor(context.authorities(), context.settings, request, machine),
    masters: await mastersNow(records),
  }
}

async function certificateFor(
  authorities: Authorities,
  settings: ClusterSettings,
  request: string,
  { role, name }: { role: Role; name: string },
): Promise<string> {
  const options = { ...validityOf(settings, Date.now()), ...machineUser(role, name) }
  try {
    return await signCertificateRequest(authorities.certificates['machine-ca'], request, options)
  } catch (error) {
    throw new Refused(400, `request: ${(error as Error).message}`)
  }
}

async function mastersNow(records: ClusterRecords): Promise<MasterRecord[]> {
  return (await records.masters()) ?? []
}

async function isLiveNode(client: ApiClient, name: string): Promise<boolean> {
  try {
    const node = await client.get<Node>(RESOURCES.nodes, { name })
    return node.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false
  } catch (error) {
    if (error instanceof CallError && error.code === 'NotFound') return false
    throw error
  }
}
