const IPV4 = /^((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.|$)){4}(?<!\.)$/
const GROUP = /^[0-9a-fA-F]{1,4}$/

export const IP_MESSAGE = 'must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'

/** Dotted, without leading zeros. */
export const isIPv4 = (text: string): boolean => IPV4.test(text)

/** RFC 4291, without a zone. */
export function isIPv6(text: string): boolean {
  const halves = text.split('::')
  if (halves.length > 2) return false
  const groupsOf = (half: string) => (half === '' ? [] : half.split(':'))
  const groups = halves.flatMap(groupsOf)
  // The last four bytes may be written as an IPv4 address.
  const tail = groups.at(-1) ?? ''
  const endsInV4 = isIPv4(tail) && text.endsWith(tail)
  const plain = endsInV4 ? groups.slice(0, -1) : groups
  const count = plain.length + (endsInV4 ? 2 : 0)
  return plain.every((group) => GROUP.test(group)) && (halves.length === 2 ? count <= 7 : count === 8)
}

export const isIP = (text: string): boolean => isIPv4(text) || isIPv6(text)

/** The addresses `[base, base + size)` as numbers. */
export interface Ipv4Network {
  readonly base: number
  readonly size: number
}

/** `10.244.0.0/16`; host bits are ignored, as Kubernetes does. Undefined: no IPv4 network. */
export function parseIpv4Network(text: string): Ipv4Network | undefined {
  const [address = '', bits = '', more] = text.split('/')
  if (!isIPv4(address) || !/^(\d|[12]\d|3[0-2])$/.test(bits) || more !== undefined) return undefined
  const size = 2 ** (32 - Number(bits))
  const at = address.split('.').reduce((sum, byte) => sum * 256 + Number(byte), 0)
  return { base: at - (at % size), size }
}

export const networksOverlap = (a: Ipv4Network, b: Ipv4Network): boolean =>
  a.base < b.base + b.size && b.base < a.base + a.size

export const networkWithin = (inner: Ipv4Network, outer: Ipv4Network): boolean =>
  inner.base >= outer.base && inner.base + inner.size <= outer.base + outer.size
