import type { Random } from '@capstan/actor'
import type { ClusterLook, Machine, Whom } from './types.js'

/** Nobody holds the role just now: it may be asked again. */
export class RoleVacant extends Error {
  override readonly name = 'RoleVacant'
}

/** How long a fault waits for somebody to hold the role that it strikes. */
const VACANT_MAX_MS = 10_000
const VACANT_AGAIN_MS = 200

/**
 * Between two leaders there is nobody to strike: then it strikes again, until there is.
 * @throws RoleVacant: there was nobody for 10 s, or until it was over
 */
export async function onceSomebodyIs<T>(
  strike: () => Promise<T>,
  run: { nowMs(): number; sleep(ms: number): Promise<unknown>; isOver(): boolean },
): Promise<T> {
  const untilMs = run.nowMs() + VACANT_MAX_MS
  for (;;)
    try {
      return await strike()
    } catch (error) {
      if (!(error instanceof RoleVacant) || run.nowMs() > untilMs || run.isOver()) throw error
      await run.sleep(VACANT_AGAIN_MS)
    }
}

/**
 * The machines that a role means now, in order of names. A name means itself. `random` chooses where a role leaves a choice.
 * @throws Error if there is no such machine; RoleVacant
 */
export function resolveWhom(
  whom: Whom,
  machines: readonly Machine[],
  look: Pick<ClusterLook, 'leader' | 'controllers'>,
  random: Random,
): string[] {
  const names = (role?: Machine['role']) =>
    machines
      .filter((machine) => role === undefined || machine.role === role)
      .map((machine) => machine.name)
      .sort()
  const masters = names('master')
  const [role = '', argument = ''] = whom.split(':')
  const nth = (list: string[]) => {
    if (list.length === 0) throw new Error(`"${whom}": there is no such machine`)
    return [list[Number(argument) % list.length] as string]
  }
  const some = (count: number) => {
    const left = [...masters]
    return Array.from({ length: count }, () => left.splice(random.int(left.length), 1)[0] as string).sort()
  }
  if (machines.some((machine) => machine.name === whom)) return [whom]
  switch (role) {
    case 'leader':
      if (look.leader === undefined) throw new RoleVacant('nobody leads')
      return [look.leader]
    case 'controllers':
      if (look.controllers === undefined) throw new RoleVacant('nobody holds the lock of the controller-manager')
      return [look.controllers]
    case 'follower':
      if (look.leader === undefined) throw new RoleVacant('nobody leads')
      return nth(masters.filter((name) => name !== look.leader))
    case 'master':
      return nth(masters)
    case 'node':
      return nth(names('node'))
    case 'zone': {
      const found = machines
        .filter((machine) => machine.zone === argument)
        .map((machine) => machine.name)
        .sort()
      if (found.length === 0) throw new Error(`"${whom}": no machine is in that zone`)
      return found
    }
    case 'masters':
      return masters
    case 'nodes':
      return names('node')
    case 'all':
      return names()
    case 'majority':
      return some(Math.floor(masters.length / 2) + 1)
    case 'minority':
      return some(Math.ceil(masters.length / 2) - 1)
    default:
      throw new Error(
        `"${whom}" is no machine (${names().join(', ')}) and no role (leader, controllers, follower:N, master:N, node:N, zone:Z, masters, nodes, majority, minority, all)`,
      )
  }
}
