// Holds the house rules of ARCHITECTURE: who may import whom, and no ambient effects outside the edge. Exits 1 on a breach.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, relative, sep } from 'node:path'

const root = process.argv[2] ?? join(import.meta.dirname, '..')

// What each room may import of ours, besides itself. `types:` only as `import type`.
const PORTS = ['@capstan/actor']
const LIBS = [
  '@capstan/actor',
  '@capstan/protocol',
  '@capstan/api',
  '@capstan/client',
  '@capstan/certs',
  '@capstan/metrics',
  'raft-ts',
  '@capstan/mvcc',
  '@capstan/real',
  '@capstan/sim',
]
const MAY_IMPORT = {
  'libs/actor': [],
  'libs/raft-ts': [],
  'libs/mvcc': [],
  'libs/api': [],
  'libs/certs': [],
  'libs/protocol': [...PORTS, 'types:raft-ts', 'types:@capstan/mvcc', 'types:@capstan/api'],
  'libs/real': [...PORTS, '@capstan/mvcc', '@capstan/protocol'],
  'libs/sim': [...PORTS, '@capstan/mvcc', '@capstan/protocol'],
  'libs/client': [...PORTS, '@capstan/protocol', '@capstan/api'],
}
// Tests may use every lib's test doubles.
const SERVICE_OR_WHOLE = /^(services|chaos|test)\b/
const WHOLE = ['services/cli', 'chaos', 'test']

const AMBIENT_MODULES =
  /^node:(fs|net|http|https|http2|tls|dgram|dns|child_process|worker_threads|cluster|os|timers|readline|inspector|v8|vm|perf_hooks)(\/|$)/
const AMBIENT = [
  [/\bnew Date\(\s*\)/, 'new Date()'],
  [/\bDate\.now\b/, 'Date.now'],
  [/\bMath\.random\b/, 'Math.random'],
  [/(?<![.\w])setTimeout\b/, 'setTimeout'],
  [/(?<![.\w])setInterval\b/, 'setInterval'],
  [/(?<![.\w])setImmediate\b/, 'setImmediate'],
  [/(?<![.\w])queueMicrotask\b/, 'queueMicrotask'],
  [/\bprocess\.(env|nextTick|hrtime|argv|exit|on)\b/, 'process.*'],
  [/(?<![.\w])performance\./, 'performance'],
  [/\bAbortSignal\.timeout\b/, 'AbortSignal.timeout'],
  [/(?<![.\w])(WeakRef|FinalizationRegistry)\b/, 'WeakRef'],
  [/(?<![.\w])Intl\./, 'Intl'],
  [/\.toLocale(String|DateString|TimeString|LowerCase|UpperCase)\b/, 'toLocale*'],
  [/\.localeCompare\b/, 'localeCompare'],
  [/\bMath\.(sin|cos|tan|exp|log1p|expm1|sinh|cosh|tanh)\b/, 'Math functions that differ between engines'],
  [/\b(randomBytes|randomUUID|getRandomValues|randomInt)\b/, 'ambient chance'],
]

/** Files that may touch the world: they stand behind a port, or are no part of a component. */
function isEdge(path) {
  return (
    /^(libs\/real|libs\/certs|services\/cli|test)\//.test(path) ||
    ['.test.ts', '/src/main.ts', '-edge.ts'].some((end) => path.endsWith(end)) ||
    /\/edge\//.test(path) ||
    /\/src\/testing[^/]*\.ts$/.test(path) ||
    /\/src\/testing\//.test(path)
  )
}

function* sources(dir) {
  if (!existsSync(dir)) return
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (['node_modules', 'dist'].includes(entry.name)) continue
    const path = join(dir, entry.name)
    if (entry.isDirectory()) yield* sources(path)
    else if (entry.name.endsWith('.ts')) yield path
  }
}

/** The code with comments and the insides of strings blanked, line for line. */
function blank(code) {
  return code.replace(
    /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/g,
    (text) =>
      text[0] === '`'
        ? text.replace(/(?<=^|\})[^$]*?(?=\$\{|`|$)/g, (s) => s.replace(/[^\n]/g, ' '))
        : text.replace(/[^\n]/g, ' '),
  )
}

const breaches = []
let files = 0
const rooms = ['libs', 'services'].flatMap((top) =>
  existsSync(join(root, top)) ? readdirSync(join(root, top)).map((name) => `${top}/${name}`) : [],
)
const serviceNames = new Set(
  rooms
    .filter((r) => r.startsWith('services/') && existsSync(join(root, r, 'package.json')))
    .map((r) => JSON.parse(readFileSync(join(root, r, 'package.json'), 'utf8')).name),
)

for (const room of [...rooms, 'chaos', 'test']) {
  for (const file of sources(join(root, room, 'src'))) {
    files++
    const path = relative(root, file).split(sep).join('/')
    const code = readFileSync(file, 'utf8')
    const isTest = /\.test\.ts$|\/testing/.test(path)
    const say = (index, text) => breaches.push(`${path}:${code.slice(0, index).split('\n').length}: ${text}`)
    for (const match of code.matchAll(
      /(?:^|\n)\s*(import|export)\s+(type\s+)?[^'"\n;]*?(?:\{[^}]*\})?[^'"\n;]*?from\s+'([^']+)'|\bimport\(\s*'([^']+)'\s*\)|(?:^|\n)import\s+'([^']+)'/g,
    )) {
      const specifier = match[3] ?? match[4] ?? match[5]
      const typeOnly = Boolean(match[2])
      const base = specifier.startsWith('@') ? specifier.split('/').slice(0, 2).join('/') : specifier.split('/')[0]
      if (AMBIENT_MODULES.test(specifier) && !isEdge(path))
        say(match.index + 1, `imports ${specifier} outside the edge: take it from the World`)
      const own = LIBS.includes(base) || serviceNames.has(base)
      if (specifier.startsWith('.') && !join('/', path, '..', specifier).startsWith(`/${room}/`))
        say(match.index + 1, `reaches into another room by ${specifier}`)
      if (!own) continue
      const name = JSON.parse(readFileSync(join(root, room, 'package.json'), 'utf8')).name
      if (base === name) continue
      if (serviceNames.has(base) && !WHOLE.includes(room))
        say(match.index + 1, `${room} imports the service ${base}: services talk by messages`)
      if (
        room.startsWith('libs/') &&
        !serviceNames.has(base) &&
        !(isTest && !['libs/actor', 'libs/raft-ts', 'libs/mvcc', 'libs/api'].includes(room))
      ) {
        const may = MAY_IMPORT[room] ?? PORTS
        if (!may.includes(base) && !(typeOnly && may.includes(`types:${base}`)))
          say(match.index + 1, `${room} may not import ${base}`)
      }
      if (SERVICE_OR_WHOLE.test(room) && !WHOLE.includes(room) && base === '@capstan/real' && !isEdge(path))
        say(match.index + 1, `only main.ts and edges choose a world: ${base}`)
    }
    if (isEdge(path)) continue
    const plain = blank(code)
    for (const [pattern, name] of AMBIENT) {
      const found = pattern.exec(plain)
      if (found) say(found.index, `uses ${name} outside the edge: take it from the World`)
    }
  }
}
for (const breach of breaches) console.error(breach)
console.log(`check-rooms: ${files} files, ${breaches.length} breaches`)
process.exit(breaches.length > 0 ? 1 : 0)
