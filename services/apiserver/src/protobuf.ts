/**
 * Kubernetes' protobuf form of request bodies. kubectl's `create namespace|configmap|secret|serviceaccount|service|deployment|
 * token`, `auth` and `drain` send it and nothing else; answers may be JSON. So only these kinds are here; all others get 415.
 */
import { badRequest, unsupportedMediaType } from './errors.js'

export const PROTOBUF = 'application/vnd.kubernetes.protobuf'

type Field =
  | readonly [name: string, type: 'string' | 'bytes' | 'int' | 'bool' | 'time' | 'quantity' | 'intOrString']
  | readonly [name: string, type: Message]
  | readonly [name: string, type: 'string' | 'int' | Message, repeated: 'list']
  | readonly [name: string, type: 'string' | 'bytes' | 'quantity', repeated: 'map']
/** By field number (the facts of Kubernetes' published API). */
type Message = { readonly [number: number]: Field }

const strings = (name: string) => [name, 'string', 'list'] as const
const stringMap = (name: string) => [name, 'string', 'map'] as const

const META: Message = {
  1: ['name', 'string'],
  2: ['generateName', 'string'],
  3: ['namespace', 'string'],
  4: ['selfLink', 'string'],
  5: ['uid', 'string'],
  6: ['resourceVersion', 'string'],
  7: ['generation', 'int'],
  8: ['creationTimestamp', 'time'],
  9: ['deletionTimestamp', 'time'],
  10: ['deletionGracePeriodSeconds', 'int'],
  11: stringMap('labels'),
  12: stringMap('annotations'),
  14: strings('finalizers'),
}

const metadata = ['metadata', META] as const

const SELECTOR: Message = {
  1: stringMap('matchLabels'),
  2: ['matchExpressions', { 1: ['key', 'string'], 2: ['operator', 'string'], 3: strings('values') }, 'list'],
}

const CONTAINER: Message = {
  1: ['name', 'string'],
  2: ['image', 'string'],
  3: strings('command'),
  4: strings('args'),
  5: ['workingDir', 'string'],
  6: [
    'ports',
    {
      1: ['name', 'string'],
      2: ['hostPort', 'int'],
      3: ['containerPort', 'int'],
      4: ['protocol', 'string'],
      5: ['hostIP', 'string'],
    },
    'list',
  ],
  7: ['env', { 1: ['name', 'string'], 2: ['value', 'string'] }, 'list'],
  8: ['resources', { 1: ['limits', 'quantity', 'map'], 2: ['requests', 'quantity', 'map'] }],
  13: ['terminationMessagePath', 'string'],
  14: ['imagePullPolicy', 'string'],
  16: ['stdin', 'bool'],
  17: ['stdinOnce', 'bool'],
  18: ['tty', 'bool'],
  20: ['terminationMessagePolicy', 'string'],
}

const POD_SPEC: Message = {
  2: ['containers', CONTAINER, 'list'],
  3: ['restartPolicy', 'string'],
  4: ['terminationGracePeriodSeconds', 'int'],
  5: ['activeDeadlineSeconds', 'int'],
  6: ['dnsPolicy', 'string'],
  7: stringMap('nodeSelector'),
  8: ['serviceAccountName', 'string'],
  9: ['serviceAccount', 'string'],
  10: ['nodeName', 'string'],
  11: ['hostNetwork', 'bool'],
  12: ['hostPID', 'bool'],
  13: ['hostIPC', 'bool'],
  // Sent empty.
  14: ['securityContext', {}],
  16: ['hostname', 'string'],
  17: ['subdomain', 'string'],
  19: ['schedulerName', 'string'],
}

const SERVICE_SPEC: Message = {
  1: [
    'ports',
    {
      1: ['name', 'string'],
      2: ['protocol', 'string'],
      3: ['port', 'int'],
      4: ['targetPort', 'intOrString'],
      5: ['nodePort', 'int'],
      6: ['appProtocol', 'string'],
    },
    'list',
  ],
  2: stringMap('selector'),
  3: ['clusterIP', 'string'],
  4: ['type', 'string'],
  5: strings('externalIPs'),
  7: ['sessionAffinity', 'string'],
  8: ['loadBalancerIP', 'string'],
  9: strings('loadBalancerSourceRanges'),
  10: ['externalName', 'string'],
  11: ['externalTrafficPolicy', 'string'],
  12: ['healthCheckNodePort', 'int'],
  13: ['publishNotReadyAddresses', 'bool'],
  17: ['ipFamilyPolicy', 'string'],
  18: strings('clusterIPs'),
  19: strings('ipFamilies'),
  20: ['allocateLoadBalancerNodePorts', 'bool'],
  21: ['loadBalancerClass', 'string'],
  22: ['internalTrafficPolicy', 'string'],
}

const DEPLOYMENT_SPEC: Message = {
  1: ['replicas', 'int'],
  2: ['selector', SELECTOR],
  3: ['template', { 1: metadata, 2: ['spec', POD_SPEC] }],
  4: [
    'strategy',
    {
      1: ['type', 'string'],
      2: ['rollingUpdate', { 1: ['maxUnavailable', 'intOrString'], 2: ['maxSurge', 'intOrString'] }],
    },
  ],
  5: ['minReadySeconds', 'int'],
  6: ['revisionHistoryLimit', 'int'],
  7: ['paused', 'bool'],
  9: ['progressDeadlineSeconds', 'int'],
}

const DELETE_OPTIONS: Message = {
  1: ['gracePeriodSeconds', 'int'],
  2: ['preconditions', { 1: ['uid', 'string'], 2: ['resourceVersion', 'string'] }],
  3: ['orphanDependents', 'bool'],
  4: ['propagationPolicy', 'string'],
  5: strings('dryRun'),
}

const OWN_ACCESS: Message = {
  1: [
    'resourceAttributes',
    {
      1: ['namespace', 'string'],
      2: ['verb', 'string'],
      3: ['group', 'string'],
      4: ['version', 'string'],
      5: ['resource', 'string'],
      6: ['subresource', 'string'],
      7: ['name', 'string'],
    },
  ],
  2: ['nonResourceAttributes', { 1: ['path', 'string'], 2: ['verb', 'string'] }],
}

/** Statuses are not read: a create takes none. */
const status = ['status', {}] as const

const KINDS: Readonly<Record<string, Message>> = {
  'v1 Namespace': { 1: metadata, 2: ['spec', { 1: strings('finalizers') }], 3: status },
  'v1 ConfigMap': { 1: metadata, 2: stringMap('data'), 3: ['binaryData', 'bytes', 'map'], 4: ['immutable', 'bool'] },
  'v1 Secret': {
    1: metadata,
    2: ['data', 'bytes', 'map'],
    3: ['type', 'string'],
    4: stringMap('stringData'),
    5: ['immutable', 'bool'],
  },
  'v1 ServiceAccount': {
    1: metadata,
    3: ['imagePullSecrets', { 1: ['name', 'string'] }, 'list'],
    4: ['automountServiceAccountToken', 'bool'],
  },
  'v1 Service': { 1: metadata, 2: ['spec', SERVICE_SPEC], 3: status },
  'apps/v1 Deployment': { 1: metadata, 2: ['spec', DEPLOYMENT_SPEC], 3: status },
  'policy/v1 Eviction': { 1: metadata, 2: ['deleteOptions', DELETE_OPTIONS] },
  'v1 DeleteOptions': DELETE_OPTIONS,
  'meta.k8s.io/v1 DeleteOptions': DELETE_OPTIONS,
  'authorization.k8s.io/v1 SelfSubjectAccessReview': { 1: metadata, 2: ['spec', OWN_ACCESS], 3: status },
  'authorization.k8s.io/v1 SelfSubjectRulesReview': {
    1: metadata,
    2: ['spec', { 1: ['namespace', 'string'] }],
    3: status,
  },
  'authentication.k8s.io/v1 SelfSubjectReview': { 1: metadata, 2: status },
  'authentication.k8s.io/v1 TokenRequest': {
    1: metadata,
    2: [
      'spec',
      {
        1: strings('audiences'),
        3: [
          'boundObjectRef',
          { 1: ['kind', 'string'], 2: ['apiVersion', 'string'], 3: ['name', 'string'], 4: ['uid', 'string'] },
        ],
        4: ['expirationSeconds', 'int'],
      },
    ],
    3: status,
  },
}

const MAGIC = Buffer.from('k8s\0', 'latin1')

/**
 * The JSON form of a body.
 * @throws ApiError 415 for a kind or field that is not known here, 400 for damaged bytes
 */
export function decodeProtobuf(body: Uint8Array): unknown {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength)
  if (!bytes.subarray(0, 4).equals(MAGIC))
    throw badRequest('the body is not in the protobuf form of Kubernetes: no k8s prefix')
  const envelope: Message = {
    1: ['typeMeta', { 1: ['apiVersion', 'string'], 2: ['kind', 'string'] }],
    2: ['raw', 'bytes'],
    3: ['contentEncoding', 'string'],
    4: ['contentType', 'string'],
  }
  const { typeMeta, raw } = readMessage(bytes.subarray(4), envelope, 'the envelope', true) as {
    typeMeta?: { apiVersion?: string; kind?: string }
    raw?: Buffer
  }
  const { apiVersion = '', kind = '' } = typeMeta ?? {}
  const name = `${apiVersion} ${kind}`
  const message = Object.hasOwn(KINDS, name) ? KINDS[name] : undefined
  if (!message)
    throw unsupportedMediaType(
      `protobuf bodies of ${kind || 'this kind'} are not supported - accepted media types include: application/json, application/yaml`,
    )
  return { apiVersion, kind, ...readMessage(raw ?? Buffer.alloc(0), message, kind, false) }
}

function readMessage(bytes: Buffer, message: Message, path: string, rawBytes: boolean): Record<string, unknown> {
  const reader = new Reader(bytes, path)
  const out: Record<string, unknown> = {}
  // Whatever the status says, it is not read.
  const isOpaque = Object.keys(message).length === 0
  while (!reader.done) {
    const tag = reader.varint()
    const wire = tag & 7
    const field = message[Math.floor(tag / 8)]
    if (!field) {
      const value = reader.skip(wire)
      if (!isOpaque && value !== 0 && !isEmpty(value))
        throw unsupportedMediaType(
          `protobuf field ${Math.floor(tag / 8)} of ${path} is not supported - send application/json instead`,
        )
      continue
    }
    const [name, type, many] = field
    const at = `${path}.${name}`
    if (many === 'map') {
      const entry = new Reader(reader.bytes(wire), at)
      let key = ''
      let value: unknown = type === 'quantity' ? '0' : ''
      while (!entry.done) {
        const inner = entry.varint()
        if (inner >> 3 === 1) key = entry.bytes(inner & 7).toString('utf8')
        else value = readValue(entry, inner & 7, type, at, rawBytes)
      }
      const map = (out[name] ??= {}) as Record<string, unknown>
      Object.defineProperty(map, key, { value, enumerable: true, configurable: true, writable: true })
    } else if (many === 'list') ((out[name] ??= []) as unknown[]).push(readValue(reader, wire, type, at, rawBytes))
    else {
      const value = readValue(reader, wire, type, at, rawBytes)
      // Go writes required fields even when they are empty; JSON leaves them out.
      if (value !== '' && value !== undefined) out[name] = value
    }
  }
  return dropZeros(out, message)
}

/** Numbers that Go always writes and that mean "not set" at zero. */
function dropZeros(out: Record<string, unknown>, message: Message): Record<string, unknown> {
  for (const [name, type] of Object.values(message)) {
    const value = out[name]
    const isZero = value === 0 && type === 'int' && ZERO_IS_UNSET.has(name)
    const isNothing = value === false && type === 'bool'
    const isHollow =
      typeof type === 'object' &&
      name !== 'metadata' &&
      !Array.isArray(value) &&
      isObject(value) &&
      Object.keys(value).length === 0
    if (isZero || isNothing || isHollow) delete out[name]
  }
  return out
}

const ZERO_IS_UNSET = new Set(['generation', 'hostPort', 'nodePort', 'minReadySeconds', 'healthCheckNodePort'])
const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null
const isEmpty = (value: number | Buffer) => typeof value !== 'number' && value.every((byte) => byte === 0)

function readValue(reader: Reader, wire: number, type: Field[1], path: string, rawBytes: boolean): unknown {
  switch (type) {
    case 'string':
      return reader.bytes(wire).toString('utf8')
    case 'bytes': {
      const bytes = reader.bytes(wire)
      return rawBytes ? bytes : bytes.toString('base64')
    }
    case 'int':
      return reader.signed(wire)
    case 'bool':
      return reader.signed(wire) !== 0
    case 'time': {
      const { seconds } = readMessage(
        reader.bytes(wire),
        { 1: ['seconds', 'int'], 2: ['nanos', 'int'] },
        path,
        false,
      ) as { seconds?: number }
      return seconds ? `${new Date(seconds * 1000).toISOString().slice(0, 19)}Z` : undefined
    }
    case 'quantity':
      return (
        (readMessage(reader.bytes(wire), { 1: ['string', 'string'] }, path, false) as { string?: string }).string ?? '0'
      )
    case 'intOrString': {
      const value = readMessage(
        reader.bytes(wire),
        { 1: ['type', 'int'], 2: ['intVal', 'int'], 3: ['strVal', 'string'] },
        path,
        false,
      )
      if (value['type'] === 1) return value['strVal'] ?? ''
      // 0 is what an unset one looks like.
      return value['intVal'] || undefined
    }
    default:
      return readMessage(reader.bytes(wire), type, path, rawBytes)
  }
}

/** Protobuf's wire format. */
class Reader {
  private at = 0
  constructor(
    private readonly from: Buffer,
    private readonly path: string,
  ) {}

  get done(): boolean {
    return this.at >= this.from.length
  }

  varint(): number {
    return Number(this.bigVarint())
  }

  signed(wire: number): number {
    if (wire !== 0) throw this.damaged()
    return Number(BigInt.asIntN(64, this.bigVarint()))
  }

  bytes(wire: number): Buffer {
    if (wire !== 2) throw this.damaged()
    const length = this.varint()
    if (length > this.from.length - this.at) throw this.damaged()
    this.at += length
    return this.from.subarray(this.at - length, this.at)
  }

  skip(wire: number): number | Buffer {
    if (wire === 0) return this.signed(0)
    if (wire === 2) return this.bytes(2)
    const width = wire === 1 ? 8 : wire === 5 ? 4 : 0
    if (width === 0 || width > this.from.length - this.at) throw this.damaged()
    this.at += width
    return this.from.subarray(this.at - width, this.at)
  }

  private bigVarint(): bigint {
    let value = 0n
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.from[this.at++]
      if (byte === undefined) break
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
    throw this.damaged()
  }

  private damaged() {
    return badRequest(`damaged protobuf in ${this.path} at byte ${this.at}`)
  }
}
