import { compareBytes, toLatin1, u64At, viewOf } from './bytes.js'
import { crc32c } from './crc32c.js'
import { ChangeRecord, decodeLatest, FORMAT, keyInLatest, keyOfRow, positionOf, ROW_KEY_BYTES_MAX } from './record.js'
import { SnapshotDamaged, SnapshotReceiver } from './snapshot.js'
import type { EngineReplacement } from './state-engine.js'

/** What a verified snapshot holds. */
export interface StateReport {
  appliedIndex: number
  revision: number
  compactRevision: number
  /** Living keys. */
  keys: number
  /** Changes in the history, the latest of each key included. */
  changes: number
  leases: number
  sessions: number
}

/**
 * Reads the bytes of a snapshot (`snapshotChunks`) and checks all that can be checked: the checksum, the order of the rows,
 * that every row can be read, that each change is its key's latest or the one before exactly one other, that each key's
 * latest change is there, and that counts, deletions and attachments to leases fit. Takes about 32 bytes a change and key.
 */
export class SnapshotVerifier {
  private readonly checker = new StateChecker()
  private readonly receiver = new SnapshotReceiver({ replace: () => this.checker })

  /** @throws SnapshotDamaged that says what is wrong */
  write(chunk: Uint8Array): Promise<void> {
    return this.receiver.write(chunk)
  }

  /** @throws SnapshotDamaged that says what is wrong */
  async finish(): Promise<StateReport> {
    const appliedIndex = await this.receiver.finish()
    return { appliedIndex, ...this.checker.report }
  }
}

/** Numbers in little memory. */
class Column {
  private values = new Float64Array(1024)
  length = 0

  push(value: number): void {
    if (this.length === this.values.length) {
      const larger = new Float64Array(this.length * 2)
      larger.set(this.values)
      this.values = larger
    }
    this.values[this.length++] = value
  }
  at(index: number): number {
    return this.values[index] as number
  }
}

class StateChecker implements EngineReplacement {
  report = { revision: 1, compactRevision: 0, keys: 0, changes: 0, leases: 0, sessions: 0 }
  private last: Uint8Array | undefined
  /** Of the changes, ascending. */
  private readonly mains = new Column()
  private readonly subs = new Column()
  private readonly keyHashes = new Column()
  private readonly claimed: boolean[] = []
  /** Of the index. */
  private readonly latestMains = new Column()
  private readonly latestSubs = new Column()
  private readonly latestHashes = new Column()
  private living = 0
  private dead = 0
  private marks = 0
  private attached = 0
  private withLease = 0
  private readonly leasesNamed = new Set<number>()
  private readonly leases = new Set<number>()
  private readonly meta = new Map<string, number>()
  /** The latest change whose former one, not a deletion, is not there: it must have been swept. */
  private sweptAtLeast = 0

  async write(pairs: readonly (readonly [key: Uint8Array, value: Uint8Array])[]): Promise<void> {
    for (const [key, value] of pairs) {
      if (this.last && compareBytes(this.last, key) >= 0) throw new SnapshotDamaged('rows out of order')
      this.last = key
      try {
        this.row(key, value)
      } catch (error) {
        if (error instanceof SnapshotDamaged) throw error
        throw new SnapshotDamaged(`row ${Buffer.from(key).toString('hex')} cannot be read: ${String(error)}`)
      }
    }
  }

  private row(key: Uint8Array, value: Uint8Array): void {
    switch (String.fromCharCode(key[0] as number)) {
      case 'a':
        this.attached++
        this.leasesNamed.add(u64At(key, 1))
        return
      case 'd':
        this.marks++
        return
      case 'i': {
        const latest = decodeLatest(value)
        const whole = keyOfRow(key, 1) ?? keyInLatest(value)
        if (whole.length <= ROW_KEY_BYTES_MAX && key.length > 1 + ROW_KEY_BYTES_MAX)
          throw new SnapshotDamaged('a short key among the long ones')
        if (latest.deleted) this.dead++
        else this.living++
        if (latest.lease !== 0) this.withLease++
        this.latestMains.push(latest.main)
        this.latestSubs.push(latest.sub)
        this.latestHashes.push(crc32c(whole))
        return
      }
      case 'k': {
        const { main, sub } = positionOf(key)
        const record = new ChangeRecord(main, sub, value)
        const hash = crc32c(record.key)
        const { previous } = record
        if (previous) {
          if (previous.main >= main) throw new SnapshotDamaged(`change ${main}.${sub} comes before its former one`)
          const former = this.find(previous.main, previous.sub)
          if (former >= 0) this.claim(former, hash, `change ${main}.${sub}`)
          // A put of version 1 follows a deletion, which is swept by itself.
          else if (record.deleted || record.change(false).version > 1) this.sweptAtLeast = main
        }
        this.mains.push(main)
        this.subs.push(sub)
        this.keyHashes.push(hash)
        return
      }
      case 'l':
        this.leases.add(u64At(key, 1))
        return
      case 'm': {
        const name = toLatin1(key.subarray(1))
        if (value.length === 8) this.meta.set(name, u64At(value, 0))
        return
      }
      case 's':
        if (key.length !== 11 + viewOf(key).getUint16(1)) throw new SnapshotDamaged('a session row of a wrong length')
        this.report.sessions++
        return
      default:
        throw new SnapshotDamaged(`a row of an unknown kind: ${key[0]}`)
    }
  }

  show(): void {}

  finish(): Promise<void> {
    const number = (name: string) => this.meta.get(name) ?? 0
    const fits = (what: string, one: number, other: number) => {
      if (one !== other) throw new SnapshotDamaged(`${what}: ${one}, but ${other}`)
    }
    if (this.mains.length > 0) fits('format', number('format'), FORMAT)
    const revision = this.meta.get('revision') ?? 1
    const last = this.mains.length === 0 ? 1 : this.mains.at(this.mains.length - 1)
    if (last > revision) throw new SnapshotDamaged(`the revision is ${revision}, but there is a change of ${last}`)
    if (number('compact') > revision) throw new SnapshotDamaged('compacted beyond its revision')
    if (this.sweptAtLeast > number('swept'))
      throw new SnapshotDamaged(`the change before one at revision ${this.sweptAtLeast} is missing`)
    for (let at = 0; at < this.latestMains.length; at++) {
      const [main, sub] = [this.latestMains.at(at), this.latestSubs.at(at)]
      const found = this.find(main, sub)
      if (found < 0) throw new SnapshotDamaged(`the index names change ${main}.${sub}, which is missing`)
      this.claim(found, this.latestHashes.at(at), 'the index')
    }
    for (let at = 0; at < this.mains.length; at++)
      if (!this.claimed[at])
        throw new SnapshotDamaged(`nothing leads to change ${this.mains.at(at)}.${this.subs.at(at)}`)
    fits('living keys', this.living, number('keys'))
    fits('deleted keys', this.dead, this.marks)
    fits('keys with a lease', this.withLease, this.attached)
    for (const id of this.leasesNamed)
      if (!this.leases.has(id)) throw new SnapshotDamaged(`a key has lease ${id}, which is missing`)
    this.report = {
      revision,
      compactRevision: number('compact'),
      keys: this.living,
      changes: this.mains.length,
      leases: this.leases.size,
      sessions: this.report.sessions,
    }
    return Promise.resolve()
  }

  abort(): Promise<void> {
    return Promise.resolve()
  }

  private claim(at: number, keyHash: number, by: string): void {
    const name = `change ${this.mains.at(at)}.${this.subs.at(at)}`
    if (this.keyHashes.at(at) !== keyHash) throw new SnapshotDamaged(`${name} is of another key than ${by}`)
    if (this.claimed[at]) throw new SnapshotDamaged(`two lead to ${name}, one of them ${by}`)
    this.claimed[at] = true
  }

  private find(main: number, sub: number): number {
    let low = 0
    let high = this.mains.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const before = this.mains.at(middle) - main || this.subs.at(middle) - sub
      if (before === 0) return middle
      if (before < 0) low = middle + 1
      else high = middle
    }
    return -1
  }
}
