/**
 * `node slow-consumer-main-edge.js DIRECTORY OBJECT`: a client of the bus that asks for more than connections hold, says `asked`,
 * and stops itself before it has read the answers. Once continued it says `again` when it is on the bus anew, and ends; if it
 * still is on the bus, it asks once more.
 */
import type { Bus } from '@capstan/actor'
import { BusApiClient } from '@capstan/client'
import { asAdmin, Places, readLayout, realWorld } from '@capstan/cli/host'
import { silentLog } from '@capstan/real'

const CONFIG_MAPS = { group: '', version: 'v1', resource: 'configmaps' }
const OBJECT_BYTES = 256 * 1024
/** 48 MiB: more than sockets take, and less than a server keeps for one client. */
const ANSWERS = 192
const CONNECT_MS = 10_000
/** It was thrown out, if it does not find that out for so long. */
const NOTICED_MS = 2000
const AGAIN_MS = 15_000
const LOOK_MS = 20

const [directory = '', name = ''] = process.argv.slice(2)
const places = new Places(directory)
const layout = readLayout(places)
if (layout) {
  const world = await realWorld(
    layout,
    places,
    { component: 'admin', name: 'cli' },
    { log: silentLog, machine: '', signal: AbortSignal.timeout(CONNECT_MS) },
  )
  await consume(new BusApiClient(world, { cluster: layout.cluster, machine: '', callerName: 'slow' }), world.bus)
} else await asAdmin(directory, ({ client, world }) => consume(client, world.bus))
process.exit(0)

async function consume(client: BusApiClient, bus: Pick<Bus, 'connected' | 'epoch'>): Promise<void> {
  const ref = { namespace: 'default', name }
  const object = { metadata: ref, data: { ballast: 'x'.repeat(OBJECT_BYTES) } }
  await client.create(CONFIG_MAPS, { apiVersion: 'v1', kind: 'ConfigMap', ...object })

  const before = bus.epoch
  const until = async (holds: () => boolean, timeoutMs: number) => {
    const untilMs = performance.now() + timeoutMs
    do await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
    while (!holds() && performance.now() < untilMs)
    return holds()
  }
  do {
    const answers = Array.from({ length: ANSWERS }, () => client.get(CONFIG_MAPS, ref))
    for (const answer of answers) answer.catch(() => undefined)
    // The first answer shows that all questions have left this process.
    await answers[0]
    await new Promise<void>((told) => process.stdout.write('asked\n', () => told()))
    // Here it stands still: what follows counts from when it is continued.
    process.kill(process.pid, 'SIGSTOP')
  } while (!(await until(() => !bus.connected || bus.epoch > before, NOTICED_MS)))
  await until(() => bus.connected, AGAIN_MS)
  await client.delete(CONFIG_MAPS, ref)
  process.stdout.write(`again ${bus.epoch - before}\n`)
}
