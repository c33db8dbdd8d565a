import {
  appendFileSync,
  closeSync,
  existsSync,
  type FSWatcher,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  watch,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { spawn } from 'node:child_process'
import { formatLogRecord } from '../log-format.js'

const READ_BYTES = 64 * 1024
const LINE_BYTES_MAX = 16 * 1024
const POLL_MS = 2000
const NEWLINE = 0x0a
/** What was carried over gives its disk space back in steps of so much. */
const RELEASE_BYTES = 8 * 1024 * 1024

/**
 * Carries what a process wrote to its raw output files over into the log file that `kubectl logs` reads, line by line with
 * the time at which it was seen. The process writes into plain files, so it outlives us; where we were is kept beside them:
 * after a crash some lines may come twice.
 */
export class LogPump {
  private readonly offsets: Record<'stdout' | 'stderr', number>
  private readonly released = { stdout: 0, stderr: 0 }
  private watcher: FSWatcher | undefined
  private readonly timer: NodeJS.Timeout
  private readonly record: string

  constructor(
    private readonly directory: string,
    private readonly logFile: string,
  ) {
    this.record = join(directory, 'offsets.json')
    this.offsets = readOffsets(this.record)
    mkdirSync(dirname(logFile), { recursive: true })
    if (!existsSync(logFile)) writeFileSync(logFile, '')
    this.watch()
    this.timer = setInterval(() => this.pump(), POLL_MS)
    this.timer.unref()
  }

  /** `last`: the process has ended; an unfinished line counts as one. */
  pump(last = false): void {
    const before = this.offsets.stdout + this.offsets.stderr
    for (const stream of ['stdout', 'stderr'] as const) this.carry(stream, last)
    if (this.offsets.stdout + this.offsets.stderr === before) return
    writeFileSync(this.record, JSON.stringify(this.offsets))
    for (const stream of ['stdout', 'stderr'] as const) this.release(stream)
  }

  stop(): void {
    clearInterval(this.timer)
    this.watcher?.close()
  }

  private watch(): void {
    try {
      this.watcher = watch(this.directory, (_, name) => {
        if (name === 'stdout' || name === 'stderr') this.pump()
      })
      this.watcher.unref()
      this.watcher.on('error', () => this.watcher?.close())
    } catch {
      // No watch to be had (their number is limited): the timer finds it, a little later.
    }
  }

  /** The process appends: the file can't be cut without losing what comes just then, but a hole in it takes no space. */
  private release(stream: 'stdout' | 'stderr'): void {
    if (this.offsets[stream] - this.released[stream] < RELEASE_BYTES) return
    this.released[stream] = this.offsets[stream]
    const args = [
      '--punch-hole',
      '--offset',
      '0',
      '--length',
      String(this.offsets[stream]),
      join(this.directory, stream),
    ]
    // Where there is no such tool or file system the space stays taken until the container is removed.
    spawn('fallocate', args, { stdio: 'ignore' }).on('error', () => {})
  }

  private carry(stream: 'stdout' | 'stderr', last: boolean): void {
    const raw = join(this.directory, stream)
    if (!existsSync(raw)) return
    const file = openSync(raw, 'r')
    try {
      const buffer = Buffer.alloc(READ_BYTES)
      for (;;) {
        const available = fstatSync(file).size - this.offsets[stream]
        if (available <= 0) return
        const bytes = buffer.subarray(0, readSync(file, buffer, 0, READ_BYTES, this.offsets[stream]))
        const records: Uint8Array[] = []
        const now = new Date().toISOString().replace('Z', '000000Z')
        let from = 0
        while (from < bytes.length) {
          const newline = bytes.indexOf(NEWLINE, from)
          const end = newline < 0 ? bytes.length : newline
          const cut = end - from > LINE_BYTES_MAX
          // An unfinished line waits for its end, unless it is too long or there will be none.
          if (newline < 0 && !cut && !(last && available <= bytes.length)) break
          const stop = cut ? from + LINE_BYTES_MAX : end
          records.push(formatLogRecord(now, stream, cut, bytes.subarray(from, stop)))
          from = cut ? stop : end + 1
        }
        if (records.length === 0) return
        appendFileSync(this.logFile, Buffer.concat(records))
        this.offsets[stream] += Math.min(from, bytes.length)
      }
    } finally {
      closeSync(file)
    }
  }
}

function readOffsets(file: string): { stdout: number; stderr: number } {
  try {
    return { stdout: 0, stderr: 0, ...(JSON.parse(readFileSync(file, 'utf8')) as object) }
  } catch {
    return { stdout: 0, stderr: 0 } // None yet, or torn: from the beginning.
  }
}
