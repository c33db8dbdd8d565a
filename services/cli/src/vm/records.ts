/**
 * What the cluster keeps about its machines, as objects of kube-system: everything that every master must know, and nothing secret.
 * - ConfigMap `capstan-masters`: each master's addresses, by name. Nodes may read it.
 * - ConfigMap `capstan-machine-NAME`: a machine that has joined; that it can be made once is what makes names unique.
 * - ConfigMap `capstan-revocations`: keys of the bus that are void, with the second up to which they are.
 */
import { CallError } from '@capstan/actor'
import { type ApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import type { MasterRecord, Role } from './machine-file.js'

export const SYSTEM = 'kube-system'
export const MASTERS = 'capstan-masters'
const REVOCATIONS = 'capstan-revocations'
const MACHINE_LABEL = 'capstan.io/machine'
const ATTEMPTS_MAX = 20

export interface MachineRecord {
  role: Role
  name: string
  address: string
  /** Public keys of its identities on the bus, by identity token. */
  busKeys: Record<string, string>
}

interface ConfigMap extends KubeObject {
  data?: Record<string, string>
}

const isCode = (error: unknown, code: string) => error instanceof CallError && error.code === code
const machineName = (name: string) => `capstan-machine-${name}`

export class ClusterRecords {
  constructor(private readonly client: ApiClient) {}

  /** Undefined: nobody has written the list yet. */
  async masters(): Promise<MasterRecord[] | undefined> {
    const data = await this.read(MASTERS)
    return data && mastersOf(data)
  }

  /** With `onlyFirst` nothing happens if there is a list: a master that was removed must not come back by itself. */
  async addMaster(master: MasterRecord, options: { onlyFirst?: boolean } = {}): Promise<void> {
    await this.edit(MASTERS, (data, isNew) =>
      options.onlyFirst && !isNew ? undefined : { ...data, [master.name]: JSON.stringify(master) },
    )
  }

  async removeMaster(name: string): Promise<void> {
    await this.edit(MASTERS, ({ [name]: gone, ...rest }) => (gone === undefined ? undefined : rest))
  }

  async machine(name: string): Promise<MachineRecord | undefined> {
    const data = await this.read(machineName(name))
    return data && machineOf(name, data)
  }

  /** All machines, in the order of their names. */
  async machines(): Promise<MachineRecord[]> {
    const { items } = await this.client.list<ConfigMap>(RESOURCES.configmaps, {
      namespace: SYSTEM,
      labelSelector: MACHINE_LABEL,
    })
    return items.map(({ metadata, data = {} }) => machineOf((metadata.name ?? '').slice(machineName('').length), data))
  }

  /** False: the name is taken. */
  async register({ role, name, address, busKeys }: MachineRecord): Promise<boolean> {
    const metadata = { name: machineName(name), namespace: SYSTEM, labels: { [MACHINE_LABEL]: role } }
    const data = { role, address, busKeys: JSON.stringify(busKeys) }
    try {
      await this.client.create(RESOURCES.configmaps, configMap(metadata, data))
      return true
    } catch (error) {
      if (isCode(error, 'AlreadyExists')) return false
      throw error
    }
  }

  async unregister(name: string): Promise<void> {
    try {
      await this.client.delete(RESOURCES.configmaps, { namespace: SYSTEM, name: machineName(name) })
    } catch (error) {
      if (!isCode(error, 'NotFound')) throw error
    }
  }

  /** Public key → second of issue up to which its credentials are void. */
  async revocations(): Promise<Record<string, number>> {
    const data = (await this.read(REVOCATIONS)) ?? {}
    return Object.fromEntries(Object.entries(data).map(([key, second]) => [key, Number(second)]))
  }

  async revoke(publicKeys: readonly string[], nowMs: number): Promise<void> {
    // Issue times are whole seconds: rounded up, so that what was made in this second is void as well.
    const second = String(Math.ceil(nowMs / 1000))
    await this.edit(REVOCATIONS, (data) => ({ ...data, ...Object.fromEntries(publicKeys.map((key) => [key, second])) }))
  }

  private async read(name: string): Promise<Record<string, string> | undefined> {
    return (await this.get(name))?.data ?? undefined
  }

  private async get(name: string): Promise<ConfigMap | undefined> {
    try {
      const object = await this.client.get<ConfigMap>(RESOURCES.configmaps, { namespace: SYSTEM, name })
      return { ...object, data: object.data ?? {} }
    } catch (error) {
      if (isCode(error, 'NotFound')) return undefined
      throw error
    }
  }

  /** Repeated as long as others are faster. `change` answers undefined where nothing is to be done. */
  private async edit(
    name: string,
    change: (data: Record<string, string>, isNew: boolean) => Record<string, string> | undefined,
  ): Promise<void> {
    for (let attempt = 1; ; attempt++)
      try {
        const old = await this.get(name)
        const data = change(old?.data ?? {}, old === undefined)
        if (!data) return
        if (old) await this.client.update(RESOURCES.configmaps, { ...old, data })
        else await this.client.create(RESOURCES.configmaps, configMap({ name, namespace: SYSTEM }, data))
        return
      } catch (error) {
        if ((!isCode(error, 'Conflict') && !isCode(error, 'AlreadyExists')) || attempt === ATTEMPTS_MAX) throw error
      }
  }
}

const configMap = (metadata: KubeObject['metadata'], data: Record<string, string>): ConfigMap => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata,
  data,
})

/** In the order of names. */
export function mastersOf(data: Readonly<Record<string, string>>): MasterRecord[] {
  return Object.keys(data)
    .sort()
    .map((name) => JSON.parse(data[name] as string) as MasterRecord)
}

function machineOf(name: string, data: Readonly<Record<string, string>>): MachineRecord {
  return {
    role: data['role'] === 'master' ? 'master' : 'node',
    name,
    address: data['address'] ?? '',
    busKeys: JSON.parse(data['busKeys'] ?? '{}') as Record<string, string>,
  }
}
