import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { uptime } from 'node:os'
import { join } from 'node:path'
import type { Guard } from '../guard.js'
import { type GuardOrder, type GuardState, parseGuardOrder } from '../guard-core.js'

const BOOT_ID = '/proc/sys/kernel/random/boot_id'

/** Boot time goes on while the machine is suspended; 10 ms fine on Linux, whole seconds elsewhere. */
export const bootMs = (): number => uptime() * 1000

export const bootId = (): string => (existsSync(BOOT_ID) ? readFileSync(BOOT_ID, 'utf8').trim() : 'unknown')

/** How kubelet and guard speak: two files, each replaced as a whole, which outlive both. */
export class GuardFiles {
  private readonly orderFile: string
  private readonly stateFile: string

  constructor(readonly directory: string) {
    this.orderFile = join(directory, 'guard-order.json')
    this.stateFile = join(directory, 'guard-state.json')
  }

  readOrder(): GuardOrder | undefined {
    const text = read(this.orderFile)
    return text === undefined ? undefined : parseGuardOrder(text)
  }

  writeOrder(order: GuardOrder): void {
    write(this.orderFile, order)
  }

  readState(): GuardState | undefined {
    try {
      return JSON.parse(read(this.stateFile) ?? '') as GuardState
    } catch {
      return undefined
    }
  }

  writeState(state: GuardState): void {
    write(this.stateFile, state)
  }
}

/** The guard as the kubelet sees it: a process of its own, which must be running (`runGuard`). */
export class FileGuard implements Guard {
  readonly bootId = bootId()
  private readonly files: GuardFiles

  constructor(directory: string) {
    this.files = new GuardFiles(directory)
  }

  bootMs(): number {
    return bootMs()
  }

  lastOrder(): GuardOrder | undefined {
    return this.files.readOrder()
  }

  tell(order: GuardOrder): void {
    this.files.writeOrder(order)
  }

  state(): GuardState | undefined {
    return this.files.readState()
  }
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined // Not written yet.
  }
}

/** Without a sync: what it speaks of does not outlive the machine's power either. */
function write(file: string, value: unknown): void {
  writeFileSync(`${file}.new`, JSON.stringify(value))
  renameSync(`${file}.new`, file)
}
