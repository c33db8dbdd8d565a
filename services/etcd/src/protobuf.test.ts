import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import protobuf from 'protobufjs'
import * as messages from './messages.js'
import { Message, ProtobufError } from './protobuf.js'

const { parse, Root } = protobuf
const root = new Root()
for (const file of ['etcd.proto', 'lock.proto', 'election.proto'])
  parse(readFileSync(join(import.meta.dirname, '../proto', file), 'utf8').replace(/^import .*$/m, ''), root, {
    keepCase: true,
  })
root.resolveAll()

/** What one table of ours stands for in the proto files. */
const NAMES: Record<string, string[]> = {
  HeaderOnly: ['CompactionResponse', 'LeaseRevokeResponse', 'DefragmentResponse', 'MoveLeaderResponse', 'AuthResponse'],
  Empty: ['LeaseLeasesRequest', 'StatusRequest', 'SnapshotRequest', 'MemberListRequest', 'WatchProgressRequest'],
  LeaseRequest: ['LeaseRevokeRequest', 'LeaseKeepAliveRequest'],
  MemberRequest: ['MemberRemoveRequest', 'MemberPromoteRequest'],
  MembersResponse: ['MemberListResponse', 'MemberRemoveResponse', 'MemberPromoteResponse', 'MemberUpdateResponse'],
}
const PACKAGES = ['etcdserverpb', 'v3lockpb', 'v3electionpb']
const all = Object.values(messages).filter((one): one is Message => one instanceof Message)
const covered = all.filter(({ name }) => !name.startsWith('HealthCheck'))

function typesOf(name: string): protobuf.Type[] {
  return (NAMES[name] ?? [name]).map((one) => {
    for (const space of PACKAGES) {
      const found = root.lookup(`${space}.${one}`, [protobuf.Type]) as protobuf.Type | null
      if (found) return found
    }
    throw new Error(`no message ${one} in the proto files`)
  })
}

const WIRE_KINDS: Record<string, string[]> = {
  bytes: ['bytes'],
  string: ['string'],
  bool: ['bool'],
  int64: ['int64', 'uint64'],
  lease: ['int64'],
  id: ['uint64'],
  uint32: ['uint32'],
}

describe('the tables of messages', () => {
  test('say what the proto files say', () => {
    for (const message of covered)
      for (const type of typesOf(message.name)) {
        const ours = message.fields.map(({ number, kind, repeated }) => ({ number, kind, repeated }))
        assert.deepEqual(
          ours.map(({ number, repeated }) => [number, repeated]).sort(),
          type.fieldsArray.map((field) => [field.id, field.repeated]).sort(),
          type.fullName,
        )
        for (const { number, kind } of ours) {
          const field = type.fieldsById[number] as protobuf.Field
          if (kind === 'message')
            assert.ok(field.resolvedType instanceof protobuf.Type, `${type.fullName}.${field.name}`)
          else if (kind === 'enum')
            assert.ok(field.resolvedType instanceof protobuf.Enum, `${type.fullName}.${field.name}`)
          else assert.ok(WIRE_KINDS[kind]?.includes(field.type), `${type.fullName}.${field.name}: ${field.type}`)
        }
      }
  })

  test('leave none out that the services use', () => {
    const known = new Set(covered.flatMap(({ name }) => NAMES[name] ?? [name]))
    const unused = new Set(['AuthRequest', 'HashRequest', 'MemberUpdateRequest'])
    for (const space of PACKAGES)
      for (const one of (root.lookup(space) as protobuf.Namespace).nestedArray)
        if (one instanceof protobuf.Type && !unused.has(one.name))
          assert.ok(known.has(one.name) || typesEqualOfHeaderOnly(one), `${space}.${one.name} has no table`)
  })
})

const typesEqualOfHeaderOnly = (type: protobuf.Type) =>
  type.fieldsArray.length === 0 || (type.fieldsArray.length === 1 && type.fieldsArray[0]?.name === 'header')

describe('the codec', () => {
  test('agrees with protobufjs on any message, both ways', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...covered).chain((message) => fc.tuple(fc.constant(message), valueOf(message, 3))),
        ([message, value]) => {
          const type = typesOf(message.name)[0] as protobuf.Type
          const encoded = message.encode(value)
          const theirs = type.encode(type.decode(encoded)).finish()
          assert.deepEqual(message.decode(theirs), message.decode(encoded))
          assert.deepEqual(comparable(message.decode(encoded)), comparable(filled(message, value)))
        },
      ),
      { numRuns: 500 },
    )
  })

  test('keeps the edges of whole numbers', () => {
    const decoded = (values: object) => {
      const type = typesOf('LeaseGrantRequest')[0] as protobuf.Type
      return messages.LeaseGrantRequest.decode(type.encode(type.fromObject(values)).finish())
    }
    assert.deepEqual(decoded({ TTL: '9007199254740991', ID: '9223372036854775807' }), {
      ttl: Number.MAX_SAFE_INTEGER,
      id: 9223372036854775807n,
    })
    // Beyond what a number holds exactly: the bound.
    assert.equal(decoded({ TTL: '9223372036854775807' }).ttl, Number.MAX_SAFE_INTEGER)
    assert.equal(decoded({ TTL: '-9223372036854775808' }).ttl, -Number.MAX_SAFE_INTEGER)
    assert.deepEqual(decoded({ TTL: '-1', ID: '-5' }), { ttl: -1, id: -5n })
  })

  test('refuses what is no message', () => {
    const refused = [
      [0x0a], // A length is missing.
      [0x0a, 5, 1], // Cut off.
      [0x08], // A number is missing.
      [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], // Eleven bytes.
      [0x08, 1], // The wrong wire type.
      [0x07], // No wire type at all.
    ]
    for (const bytes of refused)
      assert.throws(() => messages.PutRequest.decode(Uint8Array.from(bytes)), ProtobufError, bytes.join(' '))
    // Fields that nobody knows are left alone, whatever their type.
    const unknown = [0xf8, 0x7f, 1, 0xfa, 0x7f, 2, 9, 9, 0xfd, 0x7f, 1, 2, 3, 4, 0xf9, 0x7f, 1, 2, 3, 4, 5, 6, 7, 8]
    assert.deepEqual(messages.PutRequest.decode(Uint8Array.from([...unknown, 0x0a, 1, 65])).key, Uint8Array.of(65))
  })

  test('takes any bytes without anything but a ProtobufError', () => {
    fc.assert(
      fc.property(fc.constantFrom(...all), fc.uint8Array({ maxLength: 60 }), (message, bytes) => {
        try {
          message.decode(bytes)
        } catch (error) {
          assert.ok(error instanceof ProtobufError, String(error))
        }
      }),
      { numRuns: 1000 },
    )
  })
})

/** Any value of a message, with the fields that it may leave out left out now and then. */
function valueOf(message: Message, depth: number): fc.Arbitrary<Record<string, never>> {
  const fields: Record<string, fc.Arbitrary<unknown>> = {}
  for (const { name, kind, repeated, optional, message: nested } of message.fields) {
    if (kind === 'message' && depth === 0) continue
    const one: fc.Arbitrary<unknown> =
      kind === 'message'
        ? valueOf((nested as () => Message)(), depth - 1)
        : ({
            bytes: fc.uint8Array({ maxLength: 8 }),
            string: fc.string({ unit: 'grapheme', maxLength: 8 }),
            bool: fc.boolean(),
            int64: fc.oneof(fc.maxSafeInteger(), fc.integer(), fc.constant(0)),
            lease: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
            id: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
            uint32: fc.nat(0xffff_ffff),
            enum: fc.nat(4),
          }[kind] as fc.Arbitrary<unknown>)
    fields[name] = repeated ? fc.array(one, { maxLength: 3 }) : optional ? fc.option(one, { nil: undefined }) : one
  }
  return fc.record(fields, { requiredKeys: [] }) as fc.Arbitrary<Record<string, never>>
}

/** As it is read: with proto3's zero values for what was left out. */
function filled(message: Message, value: Record<string, unknown>): unknown {
  const nested = (field: { message?: () => Message }, one: unknown) =>
    field.message ? filled(field.message(), one as Record<string, unknown>) : one
  const zero = message.decode(new Uint8Array(0)) as Record<string, unknown>
  return Object.fromEntries(
    message.fields.map((field) => {
      const one = value[field.name]
      if (one === undefined) return [field.name, zero[field.name]]
      return [field.name, field.repeated ? (one as unknown[]).map((each) => nested(field, each)) : nested(field, one)]
    }),
  )
}

/** Views of other memory compare by what they hold. */
function comparable(value: unknown): unknown {
  if (value instanceof Uint8Array) return `bytes ${Buffer.from(value).toString('hex')}`
  if (Array.isArray(value)) return value.map(comparable)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, comparable(one)]))
}
