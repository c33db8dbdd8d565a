/**
 * The door by which a chaos harness makes a process misbehave: a socket in its machine's directory, for root or its owner only.
 * It exists only where the process was started for chaos. One JSON object on a line each way.
 */
import { chmodSync, mkdirSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { dirname } from 'node:path'
import type { Clock, Disk, Log, Timer } from '@capstan/actor'
import { FaultyClock } from './faulty-clock.js'
import { type DiskFaultCounts, FaultyDisk } from './faulty-disk.js'

export type ChaosOrder =
  | { order: 'disk'; isFull?: boolean; syncDelayMs?: number; failsSyncs?: boolean }
  /** Held-back writes are lost and the process is killed: answered just before. */
  | { order: 'cut-power' }
  | { order: 'clock'; offsetMs?: number; rate?: number }
  /** The event loop stands still for `ms`, again and again with as much time in between; 0: no more. */
  | { order: 'block'; ms: number }
  | { order: 'look' }

export interface ChaosWord {
  disk?: DiskFaultCounts
  clock?: { asked: number; nowMs: number }
  /** Times that the event loop was blocked, since the process began. */
  blocked: number
  error?: string
}

/** The faults of one process. Wrap its clock and disk with it before anything uses them. */
export class Chaos {
  private faultyClock: FaultyClock | undefined
  private faultyDisk: FaultyDisk | undefined
  private blocking: Timer | undefined
  private blocked = 0
  private server: Server | undefined

  constructor(
    private readonly realClock: Clock,
    private readonly log: Log,
  ) {}

  /** One for all of the process. */
  clock(): Clock {
    this.faultyClock ??= new FaultyClock(this.realClock)
    return this.faultyClock
  }

  disk(disk: Disk): Disk {
    this.faultyDisk = new FaultyDisk(disk, this.realClock)
    return this.faultyDisk
  }

  /** @throws the listener's error. */
  async listen(path: string): Promise<void> {
    mkdirSync(dirname(path), { recursive: true })
    // Of a former life: who starts has the place to itself.
    rmSync(path, { force: true })
    this.log.warn({ path }, 'started for chaos: this process misbehaves on demand')
    const server = createServer((socket) => {
      let rest = ''
      socket.setEncoding('utf8')
      socket.on('error', () => socket.destroy())
      socket.on('data', (chunk: string) => {
        rest += chunk
        const lines = rest.split('\n')
        rest = lines.pop() ?? ''
        for (const line of lines)
          void this.obey(line).then(({ word, afterwards }) =>
            socket.write(`${JSON.stringify(word)}\n`, () => afterwards?.()),
          )
      })
    })
    this.server = server
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, resolve)
    })
    chmodSync(path, 0o600)
    server.unref()
  }

  close(): void {
    this.blocking?.cancel()
    this.server?.close()
  }

  private async obey(line: string): Promise<{ word: ChaosWord; afterwards?: () => void }> {
    try {
      const order = JSON.parse(line) as ChaosOrder
      this.log.warn(order, 'chaos')
      switch (order.order) {
        case 'disk': {
          const disk = this.needDisk()
          disk.isFull = order.isFull ?? disk.isFull
          disk.syncDelayMs = order.syncDelayMs ?? disk.syncDelayMs
          disk.failsSyncs = order.failsSyncs ?? disk.failsSyncs
          break
        }
        case 'cut-power':
          await this.needDisk().cutPower()
          return { word: this.word(), afterwards: () => process.kill(process.pid, 'SIGKILL') }
        case 'clock':
          if (!this.faultyClock) throw new Error('this process has no clock to set wrong')
          if (order.offsetMs !== undefined) this.faultyClock.setOffset(order.offsetMs)
          if (order.rate !== undefined) this.faultyClock.setRate(order.rate)
          break
        case 'block':
          this.block(order.ms)
          break
        case 'look':
          break
        default:
          throw new Error(`unknown order ${line}`)
      }
      return { word: this.word() }
    } catch (error) {
      return { word: { ...this.word(), error: (error as Error).message } }
    }
  }

  private word(): ChaosWord {
    const { faultyDisk, faultyClock, blocked } = this
    return {
      blocked,
      ...(faultyDisk ? { disk: faultyDisk.counts } : {}),
      ...(faultyClock ? { clock: { asked: faultyClock.asked, nowMs: faultyClock.shownMs() } } : {}),
    }
  }

  private needDisk(): FaultyDisk {
    if (!this.faultyDisk) throw new Error('this process has no disk of its own')
    return this.faultyDisk
  }

  private block(ms: number): void {
    this.blocking?.cancel()
    const again = () => {
      this.blocking = this.realClock.setTimer(ms, () => {
        const until = performance.now() + ms
        while (performance.now() < until);
        this.blocked++
        again()
      })
    }
    if (ms > 0) again()
  }
}
