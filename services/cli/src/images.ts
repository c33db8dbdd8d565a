import { copyFileSync, existsSync, mkdirSync, renameSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { UserError } from './console.js'
import type { ClusterLayout, Places } from './layout.js'
import { machinePid } from './machines.js'
import { run } from './shell.js'

const PROJECT_ROOT = join(import.meta.dirname, '../../..')
const NAMES = ['busybox', 'nginx', 'pause']
const IMPORT_TIMEOUT_MS = 120_000

/** Builds the images that a cluster without a registry starts with, and puts them where nodes look. */
export async function provideImages(places: Places, say: (text: string) => void): Promise<void> {
  const script = join(PROJECT_ROOT, 'scripts/build-images.mjs')
  const present = NAMES.map((name) => join(places.images, `${name}.tar`))
  // Asking Debian for newer packages takes a second: only the first start does.
  if (present.every((file) => existsSync(file) && statSync(file).mtimeMs > statSync(script).mtimeMs)) return
  const { buildImages } = (await import(pathToFileURL(script).href)) as {
    buildImages: () => { archives: string[]; built: boolean }
  }
  const { archives, built } = buildImages()
  if (built) say(`built ${archives.length} images from Debian packages`)
  for (const archive of archives) keep(places, archive)
}

/** `capstan image import FILE`: to all nodes that run now, and to those that start later. */
export async function importImage(layout: ClusterLayout, places: Places, file: string): Promise<void> {
  if (!existsSync(file)) throw new UserError(`no file ${file}`)
  if (layout.runtime !== 'containerd')
    throw new UserError(`the ${layout.runtime} runtime has no images; only containerd takes archives`)
  const nodes = layout.nodes.filter((node) => machinePid(places, node.name) !== undefined)
  const results = await Promise.all(
    nodes.map(async (node) => {
      const socket = join(places.machine(node.name), 'c/containerd.sock')
      const ran = await run('ctr', ['--address', socket, '--namespace', 'k8s.io', 'images', 'import', file], {
        timeoutMs: IMPORT_TIMEOUT_MS,
      })
      if (ran.code === 0) process.stdout.write(`${node.name}: ${ran.stdout.trim().split('\n').join(', ')}\n`)
      return ran.code === 0 ? undefined : `${node.name}: ${ran.stderr.trim()}`
    }),
  )
  const failures = results.filter((result) => result !== undefined)
  if (failures.length > 0) throw new UserError(`not imported everywhere:\n${failures.join('\n')}`)
  keep(places, file)
}

function keep(places: Places, file: string): void {
  mkdirSync(places.images, { recursive: true })
  const target = join(places.images, basename(file))
  if (
    existsSync(target) &&
    statSync(target).size === statSync(file).size &&
    statSync(target).mtimeMs >= statSync(file).mtimeMs
  )
    return
  copyFileSync(file, `${target}.new`)
  renameSync(`${target}.new`, target)
}
