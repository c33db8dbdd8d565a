import { LogDamaged, RaftLog, type RecoveredLog } from './log.js'
import { readRecord } from './record.js'
import { CrashDisk } from './testing.js'
import { ENTRY_FORMAT_VERSION, type LogEntry } from './types.js'

const SEGMENT_BYTES = 1024
const configuration = { voters: ['a', 'b', 'c'], learners: [] }

/**
 * Scripts about the log on disk, with segments of 1 KiB:
 *
 *     open [salvage] [mustExist] · close · repaired
 *     append TERM FROM TO [VOTE]      hard state and entries as one batch
 *     compact INDEX
 *     crash nothing|all|half          of what is not synced is kept; the log is closed
 *     stop-at N                       the disk stops at the Nth operation from now on
 *     fail-sync                       the next sync fails
 *     flip N · zero-sector N          damages record N, as `records` counts them, or the sector in which it begins
 *     remove SEGMENT · records
 */
export class LogScript {
  private disk = new CrashDisk()
  private log: RaftLog | undefined

  async run(line: string): Promise<string[]> {
    const [verb = '', ...args] = line.split(/\s+/)
    const command = this.commands[verb]
    if (!command) throw new Error(`unknown command: ${line}`)
    try {
      return (await command(args)) ?? ['ok']
    } catch (error) {
      return [error instanceof LogDamaged ? error.message : `failed: ${(error as Error).message}`]
    }
  }

  private readonly commands: Record<string, (args: string[]) => Promise<string[] | void>> = {
    open: async (args) => {
      const [salvage, mustExist] = [args.includes('salvage'), args.includes('mustExist')]
      const opened = await RaftLog.open(this.disk, { segmentBytes: SEGMENT_BYTES, salvage, mustExist })
      this.log = opened.log
      return describeRecovered(opened.recovered)
    },
    close: async () => {
      await this.log?.close()
    },
    repaired: async () => this.opened().repaired(),
    append: async ([term, from, to, votedFor = '']) => {
      const entries = Array.from({ length: Number(to) - Number(from) + 1 }, (_, i) =>
        entryAt(Number(from) + i, Number(term)),
      )
      await this.opened().append({ hardState: { term: Number(term), votedFor, commit: Number(from) - 1 }, entries })
    },
    compact: async ([index]) => this.opened().compact({ index: Number(index), term: 1, configuration }),
    crash: async ([kept]) => {
      let n = 0
      this.disk.crash(() => kept === 'all' || (kept === 'half' && n++ % 2 === 0))
      this.log = undefined
    },
    'stop-at': async ([operation]) => {
      this.disk.crashAt = this.disk.operations + Number(operation)
    },
    'fail-sync': async () => {
      this.disk.failSyncAt = this.disk.syncs + 1
    },
    flip: async ([number]) => {
      const { bytes, at, end } = await this.record(number)
      const middle = (at + end) >> 1
      bytes[middle] = (bytes[middle] as number) ^ 4
    },
    'zero-sector': async ([number]) => {
      const { bytes, at } = await this.record(number)
      const start = Math.floor(at / 512) * 512
      bytes.fill(0, start, start + 512)
    },
    remove: async ([segment]) => this.disk.remove(`raft/${segment}`),
    records: async () => (await this.records()).map(({ text }, number) => `${number} ${text}`),
  }

  private opened(): RaftLog {
    if (!this.log) throw new Error('the log is not open')
    return this.log
  }

  private async record(number: string | undefined) {
    const record = (await this.records())[Number(number)]
    if (!record) throw new Error(`no record ${number}`)
    return record
  }

  private async records() {
    const found: { bytes: Uint8Array; at: number; end: number; text: string }[] = []
    for (const segment of (await this.disk.list('raft')).filter((name) => name.endsWith('.log'))) {
      const bytes = this.disk.bytes(`raft/${segment}`)
      for (let at = 0; at < bytes.length; ) {
        const read = readRecord(bytes, at)
        if (read.status !== 'record') break
        const { record, end } = read
        const what =
          record.type === 'entry'
            ? `entry ${record.entry.index}/${record.entry.term}`
            : record.type === 'base'
              ? `base ${record.meta.index}/${record.meta.term}`
              : `hardState term ${record.hardState.term} voted ${record.hardState.votedFor || '-'}`
        found.push({ bytes, at, end, text: `${segment} at ${at}: ${what}` })
        at = end
      }
    }
    return found
  }
}

function entryAt(index: number, term: number): LogEntry {
  const payload = new TextEncoder().encode(`entry ${index} of term ${term}`.padEnd(80, '.'))
  return { term, index, formatVersion: ENTRY_FORMAT_VERSION, kind: 'command', clientId: 'c', clientSeq: index, payload }
}

function describeRecovered({ empty, hardState, snapshot, entries, tornBytes, lost }: RecoveredLog): string[] {
  if (empty && !lost) return ['empty']
  const places = entries.map(({ index, term }) => `${index}/${term}`).join(' ')
  return [
    `term ${hardState.term} voted ${hardState.votedFor || '-'}${snapshot ? ` base ${snapshot.index}/${snapshot.term}` : ''} entries [${places}]${tornBytes > 0 ? ', cut a torn tail' : ''}`,
    ...(lost ? [`lost from ${lost.fromIndex}: ${lost.segment} at ${lost.offset}: ${lost.why}`] : []),
  ]
}
