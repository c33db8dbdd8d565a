import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { UserError } from './console.js'
import type { ClusterLayout, Places } from './layout.js'

export function writeLayout(places: Places, layout: ClusterLayout): void {
  mkdirSync(places.data, { recursive: true })
  writeFileSync(`${places.layout}.new`, `${JSON.stringify(layout, null, 2)}\n`)
  renameSync(`${places.layout}.new`, places.layout)
}

export function readLayout(places: Places): ClusterLayout | undefined {
  if (!existsSync(places.layout)) return undefined
  let layout: ClusterLayout
  try {
    layout = JSON.parse(readFileSync(places.layout, 'utf8')) as ClusterLayout
  } catch (error) {
    throw new UserError(`${places.layout} is damaged: ${(error as Error).message}`)
  }
  if (layout.formatVersion !== 1)
    throw new UserError(`${places.layout} has format ${String(layout.formatVersion)}; this version reads format 1`)
  return layout
}

export function existingLayout(places: Places): ClusterLayout {
  const layout = readLayout(places)
  if (!layout) throw new UserError(`no cluster in ${places.data}; start one with npm start`)
  return layout
}
