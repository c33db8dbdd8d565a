// What every command needs first: the packages that package-lock.json names, and the compiled program. Node alone runs this.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { basename, dirname, join, relative, sep } from 'node:path'

export const root = join(import.meta.dirname, '..')

export function ensurePackages() {
  const [major = 0] = process.versions.node.split('.').map(Number)
  if (major < 20) fail(`Capstan needs Node 20 or newer; this is ${process.version}`)
  const installed = join(root, 'node_modules/.package-lock.json')
  const lock = join(root, 'package-lock.json')
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return
  console.error('capstan: installing npm packages (npm ci): what package-lock.json names')
  run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'])
}

/** `rooms`: only these and what they import; default: everything. */
export async function ensureBuilt(rooms = []) {
  ensurePackages()
  run(process.execPath, [join(root, 'libs/api/scripts/generate-descriptions.mjs')])
  run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-b', ...rooms])
  await bundlePrograms()
}

/**
 * One file for each program that `capstan` starts, beside what they share: ten processes of some three hundred modules each
 * would spend most of a start on loading them. Made from what tsc made, in a third of a second.
 */
async function bundlePrograms() {
  const dist = join(root, 'services/cli/dist')
  // A room below it was built alone.
  if (!existsSync(join(dist, 'main.js'))) return
  const { build } = await import('esbuild')
  const outdir = join(dist, 'programs')
  const { metafile } = await build({
    metafile: true,
    absWorkingDir: root,
    entryPoints: {
      capstan: join(dist, 'capstan.js'),
      main: join(dist, 'main.js'),
      'run-master': join(dist, 'run-master.js'),
      'run-master-pod': join(dist, 'run-master-pod.js'),
      'run-node': join(dist, 'run-node.js'),
      'run-gateway': join(dist, 'run-gateway.js'),
      'run-guard': join(dist, 'run-guard.js'),
      'run-embedded': join(dist, 'run-embedded.js'),
      store: join(root, 'services/store/dist/main.js'),
      etcd: join(root, 'services/etcd/dist/main.js'),
    },
    outdir,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    // Binds a native library by its own path.
    external: ['lmdb'],
    sourcemap: true,
    logLevel: 'error',
    banner: {
      js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);",
    },
    plugins: [keepPlaces(outdir)],
  })
  const made = new Set(Object.keys(metafile.outputs).map((path) => basename(path)))
  for (const file of readdirSync(outdir)) if (!made.has(file)) rmSync(join(outdir, file))
}

/** What a module finds beside itself (a proto file, a worker) it finds from the bundle too. */
function keepPlaces(outdir) {
  return {
    name: 'keep-places',
    setup(builder) {
      builder.onLoad({ filter: /[\\/]dist[\\/].*\.js$/ }, ({ path }) => {
        if (path.includes('node_modules')) return undefined
        const text = readFileSync(path, 'utf8')
        if (!/import\.meta\.(url|dirname)/.test(text)) return undefined
        const place = JSON.stringify(relative(outdir, path).split(sep).join('/'))
        const directory = JSON.stringify(relative(outdir, dirname(path)).split(sep).join('/'))
        const contents = text
          .replaceAll('import.meta.url', `new URL(${place}, import.meta.url).href`)
          .replaceAll('import.meta.dirname', `(import.meta.dirname + '/' + ${directory})`)
        return { contents, loader: 'js', resolveDir: dirname(path) }
      })
    },
  }
}

export function run(command, args, options = {}) {
  const done = spawnSync(command, args, { cwd: root, stdio: ['inherit', 2, 'inherit'], ...options })
  if (done.error) fail(`${command}: ${done.error.message}`)
  if (done.status !== 0) process.exit(done.status ?? 1)
}

function fail(text) {
  console.error(`capstan: ${text}`)
  process.exit(1)
}
