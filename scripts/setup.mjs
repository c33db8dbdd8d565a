// What every command needs first: the packages that package-lock.json names, and the compiled program. Node alone runs this.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
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

/** What `capstan` starts, by the module that it is made of. */
const PROGRAMS = {
  'run-master': 'services/cli/dist/run-master.js',
  'run-master-pod': 'services/cli/dist/run-master-pod.js',
  'run-node': 'services/cli/dist/run-node.js',
  'run-gateway': 'services/cli/dist/run-gateway.js',
  'run-guard': 'services/cli/dist/run-guard.js',
  'run-machine': 'services/cli/dist/vm/run-machine.js',
  'run-embedded': 'services/cli/dist/run-embedded.js',
  store: 'services/store/dist/main.js',
  etcd: 'services/etcd/dist/main.js',
}

/**
 * One file for each program: ten processes of some three hundred modules each would spend most of a start on loading them.
 * Those that machines run are CommonJS, so that `load-program.ts` can keep what V8 made of them. Made from what tsc made, in
 * half a second.
 */
async function bundlePrograms() {
  const dist = join(root, 'services/cli/dist')
  // A room below it was built alone.
  if (!existsSync(join(dist, 'main.js'))) return
  const { build } = await import('esbuild')
  const outdir = join(dist, 'programs')
  const common = {
    metafile: true,
    absWorkingDir: root,
    outdir,
    bundle: true,
    platform: 'node',
    target: 'node20',
    // Binds a native library by its own path.
    external: ['lmdb'],
    sourcemap: true,
    logLevel: 'error',
  }
  const bundles = await Promise.all([
    build({
      ...common,
      entryPoints: { capstan: join(dist, 'capstan.js'), main: join(dist, 'main.js') },
      splitting: true,
      format: 'esm',
      banner: {
        js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);",
      },
      plugins: [keepPlaces(outdir, 'import.meta.dirname')],
    }),
    build({
      ...common,
      entryPoints: Object.fromEntries(Object.entries(PROGRAMS).map(([name, path]) => [name, join(root, path)])),
      format: 'cjs',
      outExtension: { '.js': '.bundle.cjs' },
      plugins: [keepPlaces(outdir, '__dirname', Object.values(PROGRAMS))],
    }),
  ])
  const made = new Set(bundles.flatMap(({ metafile }) => Object.keys(metafile.outputs).map((path) => basename(path))))
  for (const name of Object.keys(PROGRAMS)) {
    made.add(`${name}.js`)
    writeFileSync(
      join(outdir, `${name}.js`),
      `import { loadProgram } from '../load-program.js'\nloadProgram(import.meta.dirname + '/${name}.bundle.cjs')\n`,
    )
  }
  for (const file of readdirSync(outdir))
    if (!made.has(file) && !file.endsWith('.cache')) rmSync(join(outdir, file), { force: true })
}

/**
 * What a module finds beside itself (a proto file, a worker) it finds from the bundle too. `entries` become the body of one
 * asynchronous function, since CommonJS knows no `await` outside of one.
 */
function keepPlaces(outdir, here, entries = []) {
  return {
    name: 'keep-places',
    setup(builder) {
      builder.onLoad({ filter: /[\\/]dist[\\/].*\.js$/ }, ({ path }) => {
        if (path.includes('node_modules')) return undefined
        const place = (to) =>
          `require('node:path').join(${here}, ${JSON.stringify(relative(outdir, to).split(sep).join('/'))})`
        const text = readFileSync(path, 'utf8').replaceAll(/import\.meta\.(url|dirname)/g, (_, what) =>
          what === 'url' ? `require('node:url').pathToFileURL(${place(path)}).href` : place(dirname(path)),
        )
        const contents = entries.includes(relative(root, path).split(sep).join('/')) ? inFunction(text) : text
        return { contents, loader: 'js', resolveDir: dirname(path) }
      })
    },
  }
}

/** tsc puts imports first; what follows them is wrapped. A failure ends the process, as it does at a module's top level. */
function inFunction(text) {
  const lines = text.split('\n')
  const last = lines.findLastIndex((line) => /^(import\b|\} from )/.test(line))
  return [...lines.slice(0, last + 1), 'void (async () => {', ...lines.slice(last + 1), '})()'].join('\n')
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
