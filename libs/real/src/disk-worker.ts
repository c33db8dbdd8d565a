/** The thread behind `ThreadedDisk`: writes and syncs, one after the other, and nothing else. */
import { closeSync, constants, fdatasyncSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import type { DiskOrder, DiskWord, DiskWorkerData } from './threaded-disk.js'

const answers = parentPort
if (!answers) throw new Error('disk-worker runs as a worker thread only')
const { port, posted } = workerData as DiskWorkerData

interface Open {
  fd: number
  /** The first failure: final for this file. */
  failure?: Failure
}

type Failure = { code: string | undefined; message: string }

const files = new Map<number, Open>()

// Until it is terminated.
for (let taken = 0; ; ) {
  const message = receiveMessageOnPort(port)
  if (message) {
    taken = (taken + 1) | 0 // As the counter wraps.
    obey(message.message as DiskOrder[])
  } else Atomics.wait(posted, 0, taken)
}

function obey(orders: DiskOrder[]): void {
  let done: DiskWord[] = []
  for (const order of orders) {
    done.push(carryOut(order))
    // Who waits for this sync must not wait for the next one.
    if (order.kind === 'sync') {
      answers?.postMessage(done)
      done = []
    }
  }
  if (done.length > 0) answers?.postMessage(done)
}

function carryOut(order: DiskOrder): DiskWord {
  const { id } = order
  const file = files.get(order.file)
  try {
    switch (order.kind) {
      case 'open':
        files.set(order.file, { fd: openSync(order.path, constants.O_RDWR) })
        return { id }
      case 'close':
        files.delete(order.file)
        if (file) closeSync(file.fd)
        return { id }
    }
    if (!file) throw new Error('the file is not open')
    if (file.failure) return { id, failure: file.failure }
    switch (order.kind) {
      case 'write':
        for (let at = 0; at < order.bytes.length; )
          at += writeSync(file.fd, order.bytes, at, order.bytes.length - at, order.offset + at)
        break
      case 'sync':
        fdatasyncSync(file.fd)
        break
      case 'truncate':
        ftruncateSync(file.fd, order.sizeBytes)
        break
    }
    return { id }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const failure = { code, message }
    if (file) file.failure ??= failure
    return { id, failure }
  }
}
