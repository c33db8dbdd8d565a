import type { World } from '@capstan/actor'
import { grants, identityToken, Subjects } from '@capstan/protocol'
import { MemoryBroker, RealClock, RealDisk, RealRandom, silentLog } from '@capstan/real'

/** Real time and an in-process bus, for tests with real containers. */
export function realWorlds(
  cluster: string,
  directory: string,
): (component: 'kubelet' | 'apiserver', name: string) => World {
  const broker = new MemoryBroker()
  const subjects = new Subjects(cluster)
  return (component, name) => {
    const identity = { component, name } as const
    const token = identityToken(identity)
    return {
      clock: new RealClock(),
      random: new RealRandom(),
      bus: broker.connect({ identity: token, inbox: subjects.inbox(token, 't'), grants: grants(cluster, identity) }),
      disk: new RealDisk(directory),
      log: silentLog,
    }
  }
}
