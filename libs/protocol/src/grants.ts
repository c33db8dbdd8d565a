import { type Identity, identityToken, Subjects, encodeToken } from './subjects.js'

/** What one identity may do on the bus (NATS subject patterns). Whatever is not listed is denied. Promise A2. */
export interface Grants {
  publish: string[]
  subscribe: string[]
  /** May publish to the reply subject of a message that it received: so many times, for so long. */
  allowResponses?: { max: number; expiresMs: number }
}

/** The one table of who may say and hear what. */
export function grants(cluster: string, identity: Identity): Grants {
  const s = new Subjects(cluster)
  const me = identityToken(identity)
  const name = encodeToken(identity.name)
  const ownInbox = `${s.root}.inbox.${me}.>`
  const anyInbox = `${s.root}.inbox.>`
  const callsApi = `${s.root}.api.*.from.${me}.*`
  const ownBeat = s.beat(identity.component, identity.name)
  const hearsApiServers = s.beats('apiserver')
  switch (identity.component) {
    case 'store':
      return {
        publish: [`${s.root}.store.raft.${name}.*`, `${s.root}.store.*.from.${me}.*`, anyInbox, ownBeat],
        subscribe: [s.raftTo(identity.name), s.storeServed(identity.name), ownInbox, s.beats('store')],
      }
    case 'apiserver':
      return {
        publish: [
          `${s.root}.store.*.from.${me}.*`,
          `${s.root}.node.*.from.${me}.*`,
          `${s.root}.api.*.from.${me}.*`,
          anyInbox,
          ownBeat,
        ],
        subscribe: [s.apiServed(identity.name), ownInbox, s.beats()],
      }
    case 'scheduler':
    case 'kube-proxy':
    case 'dns':
      return { publish: [callsApi, ownBeat], subscribe: [ownInbox, hearsApiServers] }
    case 'controller-manager':
      return { publish: [callsApi, ownBeat], subscribe: [ownInbox, hearsApiServers, s.beats('kubelet')] }
    case 'kubelet':
      return {
        publish: [callsApi, ownBeat],
        subscribe: [ownInbox, hearsApiServers, s.nodeServed(identity.name)],
        // Log streams travel on the reply subject of the request that opened them.
        allowResponses: { max: 1_000_000, expiresMs: 24 * 3600 * 1000 },
      }
    case 'etcd':
      return {
        publish: [`${s.root}.store.*.from.${me}.*`, ownBeat],
        subscribe: [ownInbox, s.beats('store')],
      }
    case 'machine':
      return { publish: [ownBeat, `${s.root}.store.*.from.${me}.status`], subscribe: [ownInbox, s.beats()] }
    case 'admin':
      return {
        publish: [callsApi, `${s.root}.store.*.from.${me}.*`, ownBeat],
        subscribe: [ownInbox, s.beats()],
      }
  }
}

/** Does a NATS pattern (`*` one token, `>` one or more at the end) fit a subject or cover a narrower pattern? */
export function subjectFits(pattern: string, subject: string): boolean {
  const want = pattern.split('.')
  const have = subject.split('.')
  for (let at = 0; at < want.length; at++) {
    if (want[at] === '>') return have.length > at
    if (at >= have.length) return false
    if (have[at] === '>') return false
    if (want[at] !== '*' && want[at] !== have[at]) return false
  }
  return want.length === have.length
}

/** The Kubernetes user that a bus identity acts as at the API server. */
export function userOf(identity: Identity): { name: string; groups: string[] } {
  const authenticated = 'system:authenticated'
  switch (identity.component) {
    case 'kubelet':
      return { name: `system:node:${identity.name}`, groups: ['system:nodes', authenticated] }
    case 'scheduler':
      return { name: 'system:kube-scheduler', groups: [authenticated] }
    case 'controller-manager':
      return { name: 'system:kube-controller-manager', groups: [authenticated] }
    case 'kube-proxy':
    case 'dns':
      return { name: `system:${identity.component}`, groups: [authenticated] }
    case 'admin':
      return { name: 'kubernetes-admin', groups: ['system:masters', authenticated] }
    case 'apiserver':
      return { name: 'system:apiserver', groups: ['system:masters', authenticated] }
    case 'store':
    case 'etcd':
    case 'machine':
      return { name: `system:capstan:${identity.component}:${identity.name}`, groups: [authenticated] }
  }
}
