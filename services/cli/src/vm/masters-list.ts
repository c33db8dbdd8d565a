import { isDeepStrictEqual } from 'node:util'
import type { Places } from '../layout.js'
import { type MasterRecord, readMasters, writeMasters } from './machine-file.js'

/** The masters that a machine knows: from its disk at first, so that it starts without asking anybody. */
export class MastersList {
  private list: MasterRecord[]
  private readonly listeners: (() => void)[] = []

  constructor(private readonly places: Places) {
    this.list = readMasters(places)
  }

  get all(): readonly MasterRecord[] {
    return this.list
  }

  /** Kept on disk, and told to the listeners, if it is another one. An empty list is nobody's: it stays as it was. */
  update(masters: readonly MasterRecord[]): void {
    if (masters.length === 0 || isDeepStrictEqual(masters, this.list)) return
    this.list = [...masters]
    writeMasters(this.places, this.list)
    for (const listener of this.listeners) listener()
  }

  onChange(listener: () => void): void {
    this.listeners.push(listener)
  }
}
