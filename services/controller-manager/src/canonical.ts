/** JSON text with sorted keys, without undefined members: equal values give equal texts. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map((item) => canonicalJson(item ?? null)).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null'
  const fields = value as Record<string, unknown>
  const parts = Object.keys(fields)
    .filter((key) => fields[key] !== undefined)
    .sort()
    .map((key) => `${JSON.stringify(key)}:${canonicalJson(fields[key])}`)
  return `{${parts.join(',')}}`
}

// Without vowels and look-alikes, so that no hash spells a word.
const ALPHABET = 'bcdfghjklmnpqrstvwxz2456789'

/** A short name for a value: 10 letters fit for a label or object name. FNV-1a, 64 bits; not for secrets. */
export function shortHash(value: unknown): string {
  let hash = 0xcbf29ce484222325n
  for (const byte of new TextEncoder().encode(canonicalJson(value)))
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n)
  let out = ''
  for (let at = 0; at < 10; at++) {
    out += ALPHABET[Number(hash % BigInt(ALPHABET.length))]
    hash /= BigInt(ALPHABET.length)
  }
  return out
}
