import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { Script } from 'node:vm'

/** By then a program has run what a start runs, and V8 has compiled it. */
const KEEP_AFTER_MS = 20_000
const WRAPPER = ['(function (require, module, exports, __filename, __dirname) {', '\n})'] as const

/**
 * Runs a bundled program (CommonJS without `import()`, `scripts/setup.mjs`) with the machine code that an earlier life of it left beside it: half
 * of what a start costs is compiling the same three megabytes again. Without such a file, or with one of another Node, it
 * compiles as ever, and leaves one. The file's name bears the bundle's hash: V8 itself looks at no more than its length.
 */
export function loadProgram(file: string, keepAfterMs = KEEP_AFTER_MS): void {
  const source = readFileSync(file)
  const hash = createHash('sha1').update(source).digest('hex').slice(0, 12)
  const cache = `${file}.${process.version}.${hash}.cache`
  const cachedData = readIfThere(cache)
  const script = new Script(WRAPPER.join(source.toString('utf8')), {
    filename: file,
    ...(cachedData ? { cachedData } : {}),
  })
  const module = { exports: {} }
  script.runInThisContext()(createRequire(file), module, module.exports, file, dirname(file))
  if (!cachedData || script.cachedDataRejected) setTimeout(() => keep(script, file, cache), keepAfterMs).unref()
}

function readIfThere(file: string): Buffer | undefined {
  try {
    return readFileSync(file)
  } catch {
    return undefined
  }
}

function keep(script: Script, file: string, cache: string): void {
  try {
    writeFileSync(`${cache}.${process.pid}`, script.createCachedData())
    renameSync(`${cache}.${process.pid}`, cache)
    for (const name of readdirSync(dirname(file)))
      if (name.startsWith(`${basename(file)}.`) && name.endsWith('.cache') && join(dirname(file), name) !== cache)
        rmSync(join(dirname(file), name), { force: true })
  } catch {
    // The program's directory may be read-only (a container): it then compiles anew each time.
  }
}
