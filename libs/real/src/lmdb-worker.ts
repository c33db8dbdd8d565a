/** The thread behind `LmdbStateEngine`: what it is sent becomes one durable transaction. Nobody's event loop waits for it. */
import { parentPort, workerData } from 'node:worker_threads'
import { APPLIED, decodeRows, openEnvironment } from './lmdb-environment.js'
import type { WriterOrder, WriterWord } from './lmdb-environment.js'

const port = parentPort
if (!port) throw new Error('lmdb-worker runs as a worker thread only')

const { root, state, meta } = openEnvironment((workerData as { path: string }).path)
let slices: Uint8Array[] = []

port.on('message', (order: WriterOrder) => {
  switch (order.kind) {
    case 'rows':
      slices.push(order.bytes)
      return
    case 'drop':
      slices = []
      return
    case 'commit':
      void commit(order.appliedIndex).then(say, (error: unknown) => say({ failure: String(error) }))
      return
    case 'close':
      void root.close().then(() => {
        say({})
        port.close()
      })
  }
})

function say(word: WriterWord): void {
  port?.postMessage(word)
}

async function commit(appliedIndex: number | undefined): Promise<WriterWord> {
  const batch = slices
  slices = []
  root.transactionSync(() => {
    for (const slice of batch)
      for (const [key, value] of decodeRows(slice)) {
        if (value) void state.put(key, value)
        else void state.remove(key)
      }
    if (appliedIndex !== undefined) void meta.put(APPLIED, appliedIndex)
  })
  // The transaction is synced as it commits; this also waits for what else lmdb may have outstanding.
  await root.flushed
  return {}
}
