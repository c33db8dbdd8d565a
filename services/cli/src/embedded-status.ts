/** What the process of an embedded cluster says of its masters, for `capstan status`: one file, written each second. */
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { MasterState } from './embedded.js'
import type { Places } from './layout.js'

/** An older file is no news: its process hangs, or has not begun. */
const STALE_MS = 4000

const fileOf = (places: Places) => join(places.run, 'embedded-masters.json')

export function writeEmbeddedStatus(places: Places, masters: MasterState[]): void {
  const file = fileOf(places)
  writeFileSync(`${file}.new`, JSON.stringify(masters))
  renameSync(`${file}.new`, file)
}

/** Empty if the process has said nothing of late. */
export function readEmbeddedStatus(places: Places): MasterState[] {
  const file = fileOf(places)
  if (!existsSync(file) || Date.now() - statSync(file).mtimeMs > STALE_MS) return []
  return JSON.parse(readFileSync(file, 'utf8')) as MasterState[]
}
