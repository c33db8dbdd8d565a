import { execFile } from 'node:child_process'
import type { Forward } from '../forwarding.js'
import { buildTable, differenceScript, fullScript, type NetworkScope, type NftTable } from '../nft-rules.js'
import type { PacketRules } from '../packet-rules.js'

const NFT_TIMEOUT_MS = 20_000

/** Rules in one table of this network namespace, each change as one transaction that holds only the difference. */
export class NftablesRules implements PacketRules {
  readonly kind = 'nftables'
  /** What the kernel holds; undefined: not known, so the next write is of the whole. */
  private written: NftTable | undefined

  /** `command`: how to call nft for another namespace. */
  constructor(
    private readonly table: string,
    private readonly scope?: NetworkScope,
    private readonly command: readonly string[] = ['nft'],
  ) {}

  async apply(forwards: readonly Forward[]): Promise<void> {
    const wanted = buildTable(forwards)
    const script = this.written
      ? differenceScript(this.table, this.written, wanted)
      : fullScript(this.table, wanted, this.scope)
    if (script === '') return
    // If it fails, what the kernel holds may not be what we think (somebody flushed it): next time write the whole.
    this.written = undefined
    await nft(this.command, script)
    this.written = wanted
  }

  async clear(): Promise<void> {
    this.written = undefined
    await nft(this.command, `add table ip ${this.table}\ndelete table ip ${this.table}\n`)
  }
}

function nft([program = 'nft', ...before]: readonly string[], script: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = execFile(program, [...before, '-f', '-'], { timeout: NFT_TIMEOUT_MS }, (error, _stdout, stderr) =>
      error
        ? reject(new Error(`nft refused the rules: ${stderr.trim() || error.message}`, { cause: error }))
        : resolve(),
    )
    // A failed start is reported by the callback; writing to its closed pipe must not be a second, uncaught error.
    child.stdin?.on('error', () => undefined)
    child.stdin?.end(script)
  })
}
