/** Every subject of the system is built and taken apart here, and nowhere else. See `grants.ts` for who may use which. */

declare const token: unique symbol
/** A name as one NATS token: no dot, star, angle or blank. */
export type Token = string & { readonly [token]: true }

const PLAIN = /^[A-Za-z0-9-]$/

/** Names may hold dots (and any other character); NATS takes dots for separators. Injective; undone by `decodeToken`. */
export function encodeToken(name: string): Token {
  let out = ''
  for (const byte of new TextEncoder().encode(name)) {
    const char = String.fromCharCode(byte)
    out += PLAIN.test(char) ? char : `_${byte.toString(16).padStart(2, '0')}`
  }
  // An empty token would change how many tokens the subject has.
  return (out === '' ? '_' : out) as Token
}

/** @throws RangeError for what `encodeToken` never makes. */
export function decodeToken(encoded: string): string {
  if (encoded === '_') return ''
  if (!/^(?:[A-Za-z0-9-]|_[0-9a-f]{2})+$/.test(encoded)) throw new RangeError(`not an encoded token: ${encoded}`)
  const bytes: number[] = []
  for (let at = 0; at < encoded.length; at++) {
    if (encoded[at] === '_') {
      bytes.push(Number.parseInt(encoded.slice(at + 1, at + 3), 16))
      at += 2
    } else bytes.push(encoded.charCodeAt(at))
  }
  return new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(bytes))
}

/** Subjects of one cluster. Members, instances and nodes are given by name; identities as made by `identityToken`. */
export class Subjects {
  readonly root: string

  constructor(readonly cluster: string) {
    this.root = `capstan.${encodeToken(cluster)}`
  }

  /** Raft messages from one member to another. */
  raft(fromMember: string, toMember: string): string {
    return `${this.root}.store.raft.${encodeToken(fromMember)}.${encodeToken(toMember)}`
  }
  raftTo(member: string): string {
    return `${this.root}.store.raft.*.${encodeToken(member)}`
  }

  store(member: string, fromIdentity: string, verb: string): string {
    return `${this.root}.store.${encodeToken(member)}.from.${fromIdentity}.${verb}`
  }
  storeServed(member: string): string {
    return `${this.root}.store.${encodeToken(member)}.from.*.*`
  }

  api(instance: string, fromIdentity: string, verb: string): string {
    return `${this.root}.api.${encodeToken(instance)}.from.${fromIdentity}.${verb}`
  }
  apiServed(instance: string): string {
    return `${this.root}.api.${encodeToken(instance)}.from.*.*`
  }

  node(name: string, fromIdentity: string, verb: string): string {
    return `${this.root}.node.${encodeToken(name)}.from.${fromIdentity}.${verb}`
  }
  nodeServed(name: string): string {
    return `${this.root}.node.${encodeToken(name)}.from.*.*`
  }

  beat(component: Component, instance: string): string {
    return `${this.root}.beat.${component}.${encodeToken(instance)}`
  }
  /** Beats of all instances of a component, or of all components. */
  beats(component?: Component): string {
    return component ? `${this.root}.beat.${component}.*` : `${this.root}.beat.*.*`
  }

  /** Prefix below which one connection hears its answers and streams; `instance` tells connections of one identity apart. */
  inbox(identity: string, instance: string): string {
    return `${this.root}.inbox.${identity}.${encodeToken(instance)}`
  }
}

export const COMPONENTS = [
  'store',
  'apiserver',
  'scheduler',
  'controller-manager',
  'kubelet',
  'kube-proxy',
  'dns',
  'etcd',
  'machine',
  'admin',
] as const
export type Component = (typeof COMPONENTS)[number]

/** Who somebody is on the bus: a component and its name (a master's, a node's, a person's). */
export interface Identity {
  readonly component: Component
  readonly name: string
}

/** `kubelet~worker-1`: one token. */
export function identityToken(identity: Identity): string {
  return `${identity.component}~${encodeToken(identity.name)}`
}

/** @throws RangeError for what `identityToken` never makes. */
export function parseIdentity(identity: string): Identity {
  const at = identity.indexOf('~')
  const component = identity.slice(0, at) as Component
  if (at < 0 || !COMPONENTS.includes(component)) throw new RangeError(`not an identity: ${identity}`)
  return { component, name: decodeToken(identity.slice(at + 1)) }
}
