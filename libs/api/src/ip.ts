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
