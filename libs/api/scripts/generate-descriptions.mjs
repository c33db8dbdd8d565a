// Makes src/generated/descriptions.ts: the prose of `kubectl explain`, read at build time from the package kubernetes-types
// (Apache-2.0). The result is not kept in the repository.
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const out = join(import.meta.dirname, '../src/generated/descriptions.ts')
const schemaFile = join(import.meta.dirname, '../src/generated/schema.ts')
if (
  existsSync(out) &&
  statSync(out).mtimeMs > Math.max(statSync(schemaFile).mtimeMs, statSync(import.meta.filename).mtimeMs)
)
  process.exit(0)

const root = dirname(createRequire(import.meta.url).resolve('kubernetes-types/package.json'))
const schema = JSON.parse(JSON.parse(readFileSync(schemaFile, 'utf8').match(/SCHEMA_JSON = (".*")/s)[1]))
const descriptions = {}
const files = new Map()
for (const name of Object.keys(schema)) {
  const match = /^io\.k8s\.(?:api\.(\w+)|apimachinery\.pkg\.apis\.(meta))\.(v\w+)\.(\w+)$/.exec(name)
  if (!match) continue
  const path = join(root, match[1] ?? match[2], `${match[3]}.d.ts`)
  if (!existsSync(path)) continue
  if (!files.has(path)) files.set(path, readFileSync(path, 'utf8'))
  const text = files.get(path)
  const found = new RegExp(
    `(?:/\\*\\*((?:(?!\\*/)[\\s\\S])*)\\*/\\s*)?export interface ${match[4]} \\{([\\s\\S]*?)\\n\\}`,
  ).exec(text)
  if (!found) continue
  const clean = (comment) =>
    comment
      .replace(/^\s*\* ?/gm, '')
      .replace(/\s+/g, ' ')
      .trim()
  const fields = {}
  for (const field of found[2].matchAll(/\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\s*(?:readonly )?"?([\w$-]+)"?\??:/g))
    fields[field[2]] = clean(field[1])
  descriptions[name] = { ...(found[1] ? { '': clean(found[1]) } : {}), ...fields }
}
writeFileSync(
  out,
  `// Made by scripts/generate-descriptions.mjs from the package kubernetes-types (Apache-2.0). Do not edit.\n// biome-ignore-all format: a machine wrote it\nexport const DESCRIPTIONS_JSON = ${JSON.stringify(JSON.stringify(descriptions))}\n`,
)
