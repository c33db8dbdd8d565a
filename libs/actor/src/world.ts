/**
 * The ports through which a component touches anything outside itself. A component receives one `World` when it is
 * started and uses nothing else: that is what lets the same code run for real and in simulation.
 *
 * Bodies: `libs/real` (NATS or in-process bus, real clock and disk) and `libs/sim` (virtual time, seeded faults).
 */
export interface World {
  readonly clock: Clock
  readonly random: Random
  readonly bus: Bus
  readonly disk: Disk
  readonly log: Log
}

/** Time. All durations and instants are milliseconds. */
export interface Clock {
  /** Wall-clock time since the Unix epoch, whole ms. May jump; only for time stamps that people or objects show. */
  nowMs(): number
  /** Time that never goes back and goes on while the machine sleeps (boot time). Fractions allowed. For all deadlines. */
  monotonicMs(): number
  /** Runs `run` once, not before `delayMs` (negative counts as 0) have passed. */
  setTimer(delayMs: number, run: () => void): Timer
  /** Runs `run` once, after the present turn and its microtasks (setImmediate): for packing what one turn produced. */
  defer(run: () => void): void
}

export interface Timer {
  /** After this returns `run` is not called. Idempotent. */
  cancel(): void
}

/** Chance. Everything drawn comes from one seed in simulation; streams of different names do not disturb each other. */
export interface Random {
  /** Uniform in [0, 1). */
  next(): number
  /** Uniform whole number in [0, bound). */
  int(bound: number): number
  bytes(count: number): Uint8Array
  /** A stream of its own, determined by this stream's seed and `name` only. */
  fork(name: string): Random
}

/** Structured log, pino's calling convention: fields first, then the sentence. */
export interface Log {
  debug(fields: object, text: string): void
  info(fields: object, text: string): void
  warn(fields: object, text: string): void
  error(fields: object, text: string): void
  child(fields: object): Log
}

// ---------------------------------------------------------------------------------------------------------------- bus

/**
 * A connection to the message bus under one identity.
 *
 * What a bus promises: a message may be lost, late, doubled and, across a reconnect, out of order. Order holds within
 * one `epoch` of the sender and one subject. Nothing is buffered while disconnected. An identity publishes only as
 * itself and hears only what is for it (see `grants` in libs/protocol).
 */
export interface Bus {
  /** Who this connection is; the token `from.<identity>` in every subject that it publishes requests on. */
  readonly identity: string
  /** Prefix, without trailing dot, below which only this connection hears: `capstan.<cluster>.inbox.<identity>.<instance>`. */
  readonly inbox: string
  /** Bytes. A larger payload is refused with PAYLOAD_TOO_LARGE. */
  readonly payloadBytesMax: number
  /** Counts connections made: 1 at first, one more after each reconnect. 0 before the first. */
  readonly epoch: number
  readonly connected: boolean
  /**
   * Hands the message to the broker. Returns once it is in the connection's bounded send buffer. With `replyTo` below
   * the own inbox, the broker tells that nobody listens on `subject` by a message with `noResponders: true` and an empty
   * payload on exactly that reply subject (NATS's 503 status; every bus does the same).
   * @throws BusError DISCONNECTED, PAYLOAD_TOO_LARGE, DENIED, OVERLOADED, CLOSED: it did not happen.
   */
  publish(subject: string, payload: Uint8Array, options?: { replyTo?: string }): void
  /**
   * Calls `receive` for each message whose subject fits `pattern` (NATS wildcards `*` and `>`), in order, one at a time
   * as they come in. Survives reconnects.
   * @throws BusError DENIED or CLOSED.
   */
  subscribe(pattern: string, receive: (message: BusMessage) => void): Subscription
  /**
   * Publishes with a private reply subject and resolves with the first answer.
   * @throws BusError NO_RESPONDERS (nobody listens: did not happen), DISCONNECTED/… as `publish` (did not happen),
   *   TIMEOUT or CONNECTION_LOST (may have happened).
   */
  request(subject: string, payload: Uint8Array, options: { timeoutMs: number }): Promise<BusMessage>
  /** Called after each change of `connected` or `epoch`. Returns how to stop. */
  onChange(listener: (state: { connected: boolean; epoch: number }) => void): () => void
  /** Ends the connection; outstanding requests fail with CLOSED. Idempotent. */
  close(): Promise<void>
}

export interface BusMessage {
  readonly subject: string
  readonly payload: Uint8Array
  /** Where an answer goes, if the sender wants one. */
  readonly replyTo: string | undefined
  /** Only on a reply subject: the broker's word that nobody listened on the subject published to, so it did not happen. */
  readonly noResponders?: boolean
}

export interface Subscription {
  unsubscribe(): void
}

export type BusErrorCode =
  | 'NO_RESPONDERS'
  | 'TIMEOUT'
  | 'DISCONNECTED'
  | 'CONNECTION_LOST'
  | 'PAYLOAD_TOO_LARGE'
  | 'DENIED'
  | 'OVERLOADED'
  | 'CLOSED'

export class BusError extends Error {
  override readonly name = 'BusError'
  readonly code: BusErrorCode
  /** May the caller simply repeat (`not-applied`), or must it look first (`maybe-applied`)? */
  readonly outcome: 'not-applied' | 'maybe-applied'
  constructor(code: BusErrorCode, text: string, options?: ErrorOptions) {
    super(text, options)
    this.code = code
    this.outcome = code === 'TIMEOUT' || code === 'CONNECTION_LOST' ? 'maybe-applied' : 'not-applied'
  }
}

// --------------------------------------------------------------------------------------------------------------- disk

/**
 * One component's directory. Paths are relative, with `/`; missing parent directories are made. A name exists durably
 * (create, rename, remove) only after `syncDir` of its directory, contents only after `DiskFile.sync`.
 */
export interface Disk {
  /** Names (not paths) in `dir`, sorted by code unit; empty if there is no such directory. */
  list(dir: string): Promise<string[]>
  /** The whole file, or undefined if there is none. */
  read(path: string): Promise<Uint8Array | undefined>
  /** Replaces the file at once and durably: temporary file, sync, rename, sync of the directory. */
  writeAtomic(path: string, bytes: Uint8Array): Promise<void>
  /** Opens for reading and writing; creates it if missing. `preallocateBytes` reserves zeroed space at creation. */
  open(path: string, options?: { preallocateBytes?: number }): Promise<DiskFile>
  rename(from: string, to: string): Promise<void>
  /** Removes a file or a directory with all that is in it. Nothing there: no error. */
  remove(path: string): Promise<void>
  syncDir(dir: string): Promise<void>
  /** Bytes that can still be written. */
  freeBytes(): Promise<number>
}

export interface DiskFile {
  /** Bytes, including preallocated ones. */
  readonly sizeBytes: number
  /** Fewer bytes than asked for only at the end of the file. */
  read(offset: number, lengthBytes: number): Promise<Uint8Array>
  /**
   * Writes are carried out in the order of the calls. Not durable before `sync`: after a crash any subset of un-synced
   * sectors (512 B) may have reached the disk.
   * @throws DiskError NO_SPACE or IO.
   */
  write(offset: number, bytes: Uint8Array): Promise<void>
  /** fdatasync: all writes called before are durable when it resolves. A failure is final for this file (never retried). */
  sync(): Promise<void>
  truncate(sizeBytes: number): Promise<void>
  close(): Promise<void>
}

export type DiskErrorCode = 'NO_SPACE' | 'IO' | 'READ_ONLY'

export class DiskError extends Error {
  override readonly name = 'DiskError'
  readonly code: DiskErrorCode
  constructor(code: DiskErrorCode, text: string, options?: ErrorOptions) {
    super(text, options)
    this.code = code
  }
}
