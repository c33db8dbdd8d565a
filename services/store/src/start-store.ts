import { spawn } from '@capstan/actor'
import type { StoreHandle, StoreOptions, StoreWorld } from './options.js'
import { type StoreMessage, StoreMember } from './store-member.js'

/** Room for raft's messages behind the requests that may wait. */
const MAILBOX_MAX = 65_536

/**
 * Starts one member of the store: serves `store.<member>.from.*.*`, talks raft with the others, beats every second.
 * Resolves when it serves; that needs no quorum. A member that crashes is started again from its directory.
 * @throws StoreError if the directory is not this member's; LogDamaged, StateUnusable if it is damaged and nobody can repair it.
 */
export async function startStore(world: StoreWorld, options: StoreOptions): Promise<StoreHandle> {
  if (options.emptyDirectory === 'new' && !options.members.includes(options.member))
    throw new RangeError(`members do not name ${options.member}, so it cannot make the cluster: let it join`)
  const boot = Buffer.from(world.random.bytes(8)).toString('hex')
  let member: StoreMember | undefined
  let serving: () => void = () => {}
  let failed: (error: unknown) => void = () => {}
  let over: (error: unknown) => void = () => {}
  const started = new Promise<void>((resolve, reject) => {
    serving = resolve
    failed = reject
  })
  const ended = new Promise<unknown>((resolve) => (over = resolve))
  const ref = spawn<StoreMessage>(
    world,
    {
      name: `store/${options.member}`,
      mailboxMax: MAILBOX_MAX,
      onGiveUp: (error) => {
        failed(error)
        over(error)
      },
    },
    (self) =>
      new StoreMember(world, options, self, boot, {
        serving: (one) => {
          member = one
          serving()
        },
        // Trying again would not help.
        refused: (error) => {
          failed(error)
          over(error)
          void self.stop()
        },
      }),
  )
  await started
  const present = () => member as StoreMember
  return {
    member: options.member,
    status: () => Promise.resolve(present().status()),
    stateHash: () => Promise.resolve(present().stateHash()),
    async stop() {
      await present().leave()
      await ref.stop()
      over(undefined)
    },
    async kill() {
      await ref.stop()
      over(undefined)
    },
    ended,
  }
}
