/** Rules for names, with Kubernetes' words for what is wrong (RFC 1123, RFC 1035). Undefined: nothing. */

const LABEL = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/
const LABEL_1035 = /^[a-z]([-a-z0-9]*[a-z0-9])?$/
const SUBDOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/
const QUALIFIED = /^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$/
const CONFIG_KEY = /^[-._a-zA-Z0-9]+$/
const ENV_NAME = /^[ -<>-~]+$/

const tooLong = (max: number) => `must be no more than ${max} characters`

export function dns1123Label(name: string): string | undefined {
  if (name.length > 63) return tooLong(63)
  if (LABEL.test(name)) return undefined
  return "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
}

export function dns1035Label(name: string): string | undefined {
  if (name.length > 63) return tooLong(63)
  if (LABEL_1035.test(name)) return undefined
  return "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
}

export function dns1123Subdomain(name: string): string | undefined {
  if (name.length > 253) return tooLong(253)
  if (SUBDOMAIN.test(name)) return undefined
  return "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
}

/** Keys of labels, annotations and taints: an optional DNS prefix, a slash, a name. */
export function qualifiedName(key: string): string | undefined {
  const parts = key.split('/')
  const name = parts[parts.length - 1] as string
  if (parts.length > 2)
    return "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
  if (parts.length === 2) {
    if (parts[0] === '') return 'prefix part must be non-empty'
    const wrong = dns1123Subdomain(parts[0] as string)
    if (wrong) return `prefix part ${wrong}`
  }
  if (name === '') return 'name part must be non-empty'
  if (name.length > 63) return `name part ${tooLong(63)}`
  if (!QUALIFIED.test(name))
    return "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
  return undefined
}

export function labelValue(value: string): string | undefined {
  if (value.length > 63) return tooLong(63)
  if (value === '' || QUALIFIED.test(value)) return undefined
  return "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
}

export function configKey(key: string): string | undefined {
  if (key.length > 253) return tooLong(253)
  if (key === '.') return "must not be '.'"
  if (key === '..') return "must not be '..'"
  if (key.startsWith('..')) return "must not start with '..'"
  if (CONFIG_KEY.test(key)) return undefined
  return "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
}

export function envName(name: string): string | undefined {
  if (ENV_NAME.test(name)) return undefined
  return "a valid environment variable name must consist only of printable ASCII characters other than '='"
}

/** Names of container ports (IANA service names). */
export function portName(name: string): string | undefined {
  if (name.length > 15) return tooLong(15)
  if (!/^[-a-z0-9]*$/.test(name)) return 'must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)'
  if (!/[a-z]/.test(name)) return 'must contain at least one letter (a-z)'
  if (name.includes('--')) return 'must not contain consecutive hyphens'
  if (name.startsWith('-') || name.endsWith('-')) return 'must not begin or end with a hyphen'
  return undefined
}

export function portNumber(port: unknown): string | undefined {
  return typeof port === 'number' && Number.isInteger(port) && port >= 1 && port <= 65_535
    ? undefined
    : 'must be between 1 and 65535, inclusive'
}
