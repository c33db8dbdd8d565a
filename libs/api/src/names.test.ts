import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  configKey,
  dns1035Label,
  dns1123Label,
  dns1123Subdomain,
  envName,
  labelValue,
  portName,
  portNumber,
  qualifiedName,
} from './names.js'

const rules: Record<
  string,
  { rule: (name: string) => string | undefined; right: string[]; wrong: [string, RegExp][] }
> = {
  dns1123Label: {
    rule: dns1123Label,
    right: ['a', '0', 'my-name', '123-abc', 'a'.repeat(63)],
    wrong: [
      ['', /^a lowercase RFC 1123 label must consist/],
      ['A', /RFC 1123 label/],
      ['-a', /RFC 1123 label/],
      ['a-', /RFC 1123 label/],
      ['a.b', /RFC 1123 label/],
      ['a_b', /RFC 1123 label/],
      ['a\n', /RFC 1123 label/],
      ['a'.repeat(64), /^must be no more than 63 /],
    ],
  },
  dns1035Label: {
    rule: dns1035Label,
    right: ['a', 'abc-123'],
    wrong: [
      ['1a', /^a DNS-1035 label must consist/],
      ['a.b', /DNS-1035/],
      ['', /DNS-1035/],
      ['a'.repeat(64), /63/],
    ],
  },
  dns1123Subdomain: {
    rule: dns1123Subdomain,
    right: ['a', 'example.com', '1.2.3', `${'a'.repeat(126)}.${'b'.repeat(126)}`],
    wrong: [
      ['', /^a lowercase RFC 1123 subdomain must consist/],
      ['a..b', /subdomain/],
      ['.a', /subdomain/],
      ['a.', /subdomain/],
      ['Web', /subdomain/],
      ['a'.repeat(254), /253/],
    ],
  },
  qualifiedName: {
    rule: qualifiedName,
    right: ['app', 'app.kubernetes.io/name', 'A_b.c-D', 'x/1'],
    wrong: [
      ['', /^name part must be non-empty$/],
      ['/x', /^prefix part must be non-empty$/],
      ['x/', /^name part must be non-empty$/],
      ['a/b/c', /^a qualified name must consist of .* with an optional DNS subdomain prefix/],
      ['A.b/c', /^prefix part a lowercase RFC 1123 subdomain/],
      ['-a', /^name part must consist of/],
      ['a'.repeat(64), /^name part must be no more than 63/],
    ],
  },
  labelValue: {
    rule: labelValue,
    right: ['', 'MyValue', 'my_value', '12345'],
    wrong: [
      ['a b', /^a valid label must be an empty string or consist/],
      ['-', /valid label/],
      ['x'.repeat(64), /63/],
    ],
  },
  configKey: {
    rule: configKey,
    right: ['key.name', 'KEY_NAME', '-', '.a'],
    wrong: [
      ['', /^a valid config key/],
      ['a/b', /valid config key/],
      ['.', /must not be '\.'/],
      ['..', /must not be '\.\.'/],
      ['..a', /must not start with/],
      ['a'.repeat(254), /253/],
    ],
  },
  envName: {
    rule: envName,
    right: ['A', 'my.env-name', '1A', 'a b'],
    wrong: [
      ['', /printable ASCII characters other than '='/],
      ['A=B', /other than '='/],
      ['ä', /ASCII/],
      ['a\tb', /printable/],
    ],
  },
  portName: {
    rule: portName,
    right: ['http', '8a', 'a-b'],
    wrong: [
      ['', /at least one letter/],
      ['80', /at least one letter/],
      ['HTTP', /alpha-numeric/],
      ['a--b', /consecutive hyphens/],
      ['-a', /begin or end with a hyphen/],
      ['a'.repeat(16), /15/],
    ],
  },
}

for (const [name, { rule, right, wrong }] of Object.entries(rules))
  describe(name, () => {
    for (const text of right)
      test(`${JSON.stringify(text.slice(0, 30))} is right`, () => assert.equal(rule(text), undefined))
    for (const [text, message] of wrong)
      test(`${JSON.stringify(text.slice(0, 30))} is wrong`, () => assert.match(rule(text) ?? '', message))
  })

test('port numbers', () => {
  for (const port of [1, 80, 65_535]) assert.equal(portNumber(port), undefined)
  for (const port of [0, -1, 65_536, 1.5, '80', undefined, null])
    assert.equal(portNumber(port), 'must be between 1 and 65535, inclusive')
})
