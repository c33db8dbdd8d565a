/**
 * The process of a cluster on the in-process bus: `run-embedded.js DATA`. All machines and the host's way in; supervised by
 * nobody. Tells `capstan status` once a second, in a file, what only this process knows.
 */
import { existsSync, mkdirSync } from 'node:fs'
import { realLog } from '@capstan/real'
import { AdminClient } from './admin-client.js'
import { EmbeddedCluster } from './embedded.js'
import { writeEmbeddedStatus } from './embedded-status.js'
import { existingLayout } from './layout-file.js'
import { Places } from './layout.js'
import { readSecrets } from './pki.js'

const STATUS_PERIOD_MS = 1000

const [data = ''] = process.argv.slice(2)
const places = new Places(data)
const layout = existingLayout(places)
const log = realLog({ name: 'embedded' })
const secrets = readSecrets(places)
mkdirSync(places.run, { recursive: true })

const admin = new AdminClient(places)
const cluster = new EmbeddedCluster({
  layout,
  clusterId: secrets.clusterId,
  directory: (machine) => places.machine(machine),
  isNew: () => existsSync(places.newCluster),
  secrets,
  https: {
    check: async (backend) => (await admin.request({ ...backend, path: '/readyz' }, 1000))?.status === 200,
  },
  hostServices: true,
  log,
})

let stopping = false
for (const signal of ['SIGTERM', 'SIGINT'] as const)
  process.on(signal, () => {
    if (stopping) return
    stopping = true
    log.info({ signal }, 'stopping')
    cluster.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, 'it does not stop cleanly')
        process.exit(1)
      },
    )
  })

await cluster.start()
while (!stopping) {
  writeEmbeddedStatus(places, await cluster.masterStates())
  await new Promise((resolve) => setTimeout(resolve, STATUS_PERIOD_MS))
}
