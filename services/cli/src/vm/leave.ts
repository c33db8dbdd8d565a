/** What is done to the machine of a directory from beside it: `capstan stop` and `capstan leave`. */
import { existsSync, readdirSync, rmdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { removeCgroup } from '../cgroup.js'
import { Progress, UserError } from '../console.js'
import { Places } from '../layout.js'
import { mountsBelow } from '../network.js'
import { isRoot, run } from '../shell.js'
import { stopUnit } from '../systemd/install.js'
import { existingMachine, type NodeMachine, readMachine } from './machine-file.js'
import { clearNetwork } from './machine-network.js'
import { stopMachineProcess } from './machine-process.js'

/** False: the directory holds no machine of this kind. */
export async function stopMachine(data: string): Promise<boolean> {
  const places = new Places(data)
  const machine = readMachine(places)
  if (!machine) return false
  const progress = new Progress()
  const hadUnit = await stopUnit(machine.role)
  const ran = (await stopMachineProcess(places, machine)) || hadUnit
  progress.done(ran ? `${machine.name} is stopped; its data stays in ${data}` : `${machine.name} does not run`)
  return true
}

/** Ends the machine and removes all that it has on this host, its directory too. The cluster is told by `master|node remove`. */
export async function leave(data: string): Promise<void> {
  const places = new Places(data)
  const machine = existingMachine(places)
  const progress = new Progress()
  await stopUnit(machine.role, { forGood: true })
  await stopMachineProcess(places, machine)
  if (machine.role === 'node' && isRoot()) await clearNode(places, machine)
  await clearNetwork(machine)
  const mounts = mountsBelow(places.data)
  if (mounts.length > 0) throw new UserError(`still mounted: ${mounts.join(', ')}; nothing was removed`)
  removeDirectory(places.data)
  progress.done(
    `${data} is gone. If that was not done yet, on a master: capstan ${machine.role} remove ${machine.name}`,
  )
}

/** A file system of its own may be mounted there: then what is in it goes, and the place stays. */
function removeDirectory(directory: string): void {
  for (const name of readdirSync(directory)) rmSync(join(directory, name), { recursive: true, force: true })
  try {
    rmdirSync(directory)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EBUSY') throw error
  }
}

async function clearNode(places: Places, { name, runtime, cgroupParent }: NodeMachine): Promise<void> {
  const dir = join(places.machine(name), 'c')
  if (runtime === 'containerd' && existsSync(dir)) {
    const { clearContainerd } = await import('@capstan/kubelet/edge')
    await clearContainerd({ dir, cgroupParent })
  }
  for (const mount of mountsBelow(places.data)) await run('umount', ['-l', mount])
  removeCgroup(cgroupParent)
}
