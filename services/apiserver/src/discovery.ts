/** What this server has, in the three forms in which clients ask for it. */
import type { Kind, Kinds } from './kinds.js'

/** Kinds of what some subresources take and give; all others: the kind itself. */
const SUBRESOURCE_KINDS: Readonly<Record<string, { group: string; version: string; kind: string }>> = {
  scale: { group: 'autoscaling', version: 'v1', kind: 'Scale' },
  eviction: { group: 'policy', version: 'v1', kind: 'Eviction' },
  binding: { group: '', version: 'v1', kind: 'Binding' },
  token: { group: 'authentication.k8s.io', version: 'v1', kind: 'TokenRequest' },
}

const SUBRESOURCE_VERBS: Readonly<Record<string, readonly string[]>> = {
  eviction: ['create'],
  binding: ['create'],
  token: ['create'],
  log: ['get'],
  finalize: ['update'],
}

const subKind = (kind: Kind, sub: string) => SUBRESOURCE_KINDS[sub] ?? kind
const subVerbs = (sub: string) => SUBRESOURCE_VERBS[sub] ?? ['get', 'patch', 'update']
const sorted = <T>(list: readonly T[], name: (one: T) => string) =>
  [...list].sort((a, b) => (name(a) < name(b) ? -1 : 1))

/** Groups in the order in which clients should prefer them: core, apps, the rest by name. */
function groupsOf(kinds: Kinds): string[] {
  const rank = (group: string) => (group === '' ? '0' : group === 'apps' ? '1' : `2${group}`)
  return sorted([...new Set(kinds.all().map((kind) => kind.group))], rank)
}

const versionsOf = (kinds: Kinds, group: string) =>
  sorted(
    [
      ...new Set(
        kinds
          .all()
          .filter((kind) => kind.group === group)
          .map((kind) => kind.version),
      ),
    ],
    (version) => version,
  )

const kindsOf = (kinds: Kinds, group: string, version: string) =>
  sorted(
    kinds.all().filter((kind) => kind.group === group && kind.version === version),
    (kind) => kind.resource,
  )

/** `/api`. */
export function apiVersions(serverAddress: string): object {
  return {
    kind: 'APIVersions',
    versions: ['v1'],
    serverAddressByClientCIDRs: [{ clientCIDR: '0.0.0.0/0', serverAddress }],
  }
}

function apiGroup(kinds: Kinds, group: string): object {
  const versions = versionsOf(kinds, group).map((version) => ({ groupVersion: `${group}/${version}`, version }))
  return { name: group, versions, preferredVersion: versions[0] }
}

/** `/apis`. */
export function apiGroupList(kinds: Kinds): object {
  const groups = groupsOf(kinds).filter((group) => group !== '')
  return { kind: 'APIGroupList', apiVersion: 'v1', groups: groups.map((group) => apiGroup(kinds, group)) }
}

/** `/apis/<group>`; undefined: no such group. */
export function oneApiGroup(kinds: Kinds, group: string): object | undefined {
  if (group === '' || versionsOf(kinds, group).length === 0) return undefined
  return { kind: 'APIGroup', apiVersion: 'v1', ...apiGroup(kinds, group) }
}

/** `/api/v1`, `/apis/<group>/<version>`; undefined: no such version. */
export function apiResourceList(kinds: Kinds, group: string, version: string): object | undefined {
  const found = kindsOf(kinds, group, version)
  if (found.length === 0) return undefined
  const resources = found.flatMap((kind) => [
    {
      name: kind.resource,
      singularName: kind.singular,
      namespaced: kind.namespaced,
      kind: kind.kind,
      verbs: [...kind.verbs].sort(),
      ...(kind.shortNames.length > 0 ? { shortNames: kind.shortNames } : {}),
      ...(kind.categories.length > 0 ? { categories: kind.categories } : {}),
    },
    ...[...kind.subresources].sort().map((sub) => {
      const of = subKind(kind, sub)
      const isOther = of.group !== kind.group
      return {
        name: `${kind.resource}/${sub}`,
        singularName: '',
        namespaced: kind.namespaced,
        ...(isOther ? { group: of.group, version: of.version } : {}),
        kind: of.kind,
        verbs: subVerbs(sub),
      }
    }),
  ])
  return {
    kind: 'APIResourceList',
    apiVersion: 'v1',
    groupVersion: group === '' ? version : `${group}/${version}`,
    resources,
  }
}

/** `/api` (`isCore`) or `/apis` for a client that takes apidiscovery.k8s.io. */
export function aggregatedDiscovery(kinds: Kinds, isCore: boolean, apiVersion: 'v2' | 'v2beta1'): object {
  const groups = groupsOf(kinds).filter((group) => (group === '') === isCore)
  const items = groups.map((group) => ({
    metadata: { name: group, creationTimestamp: null },
    versions: versionsOf(kinds, group).map((version) => ({
      version,
      freshness: 'Current',
      resources: kindsOf(kinds, group, version).map((kind) => ({
        resource: kind.resource,
        responseKind: { group: kind.group, version: kind.version, kind: kind.kind },
        scope: kind.namespaced ? 'Namespaced' : 'Cluster',
        singularResource: kind.singular,
        verbs: [...kind.verbs].sort(),
        ...(kind.shortNames.length > 0 ? { shortNames: kind.shortNames } : {}),
        ...(kind.categories.length > 0 ? { categories: kind.categories } : {}),
        ...(kind.subresources.length === 0
          ? {}
          : {
              subresources: [...kind.subresources].sort().map((sub) => {
                const { group: g, version: v, kind: k } = subKind(kind, sub)
                return { subresource: sub, responseKind: { group: g, version: v, kind: k }, verbs: subVerbs(sub) }
              }),
            }),
      })),
    })),
  }))
  return { kind: 'APIGroupDiscoveryList', apiVersion: `apidiscovery.k8s.io/${apiVersion}`, metadata: {}, items }
}
