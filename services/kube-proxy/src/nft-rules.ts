import type { Forward, Target } from './forwarding.js'

/** One nftables table as data: what is diffed, and what a script is written from. Pure. */
export interface NftTable {
  /** Chain name → rules, in order. Only chains that belong to Services; the fixed ones are written once. */
  chains: Map<string, string[]>
  /** Map name → element key → value. */
  maps: Map<string, Map<string, string>>
}

/** The address ranges of the cluster; without them nothing is said about traffic between the cluster and what is outside. */
export interface NetworkScope {
  /** All nodes' pod networks. */
  clusterCidr: string
  serviceCidr: string
}

/** Mark of packets that must leave with the node's address. */
const MASQUERADE = '0x4000'
const MAPS = {
  'service-ips': 'ipv4_addr . inet_proto . inet_service',
  'service-nodeports': 'inet_proto . inet_service',
  'no-endpoints': 'ipv4_addr . inet_proto . inet_service',
}

export function buildTable(forwards: readonly Forward[]): NftTable {
  const chains = new Map<string, string[]>()
  const maps = new Map<string, Map<string, string>>(Object.keys(MAPS).map((name) => [name, new Map()]))
  const put = (map: string, key: string, value: string) => maps.get(map)?.set(key, value)
  for (const forward of forwards) {
    const chain = `svc-${chainHash(forward.name)}`
    if (forward.targets.length > 0) chains.set(chain, balance(forward, forward.targets, chains))
    for (const address of forward.addresses) {
      const key = `${address} . ${forward.protocol} . ${forward.port}`
      if (forward.targets.length > 0) put('service-ips', key, `goto ${chain}`)
      else put('no-endpoints', key, 'goto refuse')
    }
    if (forward.nodePort !== undefined && forward.nodePortTargets.length > 0) {
      const external = `ext-${chainHash(forward.name)}`
      // From outside: answers must come back through this node, so its address stands in for the client's.
      chains.set(external, [
        `meta mark set meta mark or ${MASQUERADE}`,
        ...balance(forward, forward.nodePortTargets, chains),
      ])
      put('service-nodeports', `${forward.protocol} . ${forward.nodePort}`, `goto ${external}`)
    }
  }
  return { chains, maps }
}

function balance(forward: Forward, targets: readonly Target[], chains: Map<string, string[]>): string[] {
  const names = targets.map((target) => {
    const name = `ep-${chainHash(`${forward.name} ${forward.protocol} ${target.address}:${target.port}`)}`
    chains.set(name, [
      // Hairpin: a pod that reaches itself by its Service must see an address that is not its own.
      `ip saddr ${target.address} meta mark set meta mark or ${MASQUERADE}`,
      `meta l4proto ${forward.protocol} dnat to ${target.address}:${target.port}`,
    ])
    return name
  })
  if (names.length === 1) return [`goto ${names[0]}`]
  const choose = forward.sticky ? 'jhash ip saddr' : 'numgen random'
  return [`${choose} mod ${names.length} vmap { ${names.map((name, i) => `${i} : goto ${name}`).join(', ')} }`]
}

/** The script that creates the table anew, whatever was there: one transaction. */
export function fullScript(name: string, table: NftTable, scope?: NetworkScope): string {
  const lines = [`add table ip ${name}`, `delete table ip ${name}`, `add table ip ${name}`]
  for (const [map, type] of Object.entries(MAPS)) lines.push(`add map ip ${name} ${map} { type ${type} : verdict; }`)
  const chain = (chainName: string, hook?: string) =>
    lines.push(`add chain ip ${name} ${chainName}${hook ? ` { ${hook} }` : ''}`)
  const rule = (chainName: string, text: string) => lines.push(`add rule ip ${name} ${chainName} ${text}`)
  chain('refuse')
  rule('refuse', 'meta l4proto tcp reject with tcp reset')
  rule('refuse', 'reject')
  chain('services')
  if (scope) {
    // From a machine, or from outside through one: the pod's answer must come back by the same machine.
    const outside = `ip saddr != ${scope.clusterCidr} ip daddr ${scope.serviceCidr}`
    rule('services', `${outside} meta mark set meta mark or ${MASQUERADE}`)
  }
  rule('services', 'ip daddr . meta l4proto . th dport vmap @service-ips')
  rule('services', 'fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports')
  chain('prerouting', 'type nat hook prerouting priority -100;')
  rule('prerouting', 'jump services')
  chain('output', 'type nat hook output priority -100;')
  rule('output', 'jump services')
  chain('postrouting', 'type nat hook postrouting priority 100;')
  rule('postrouting', `meta mark and ${MASQUERADE} == ${MASQUERADE} masquerade`)
  // Pods are known to the cluster's machines only; outside, their node's address stands in for theirs.
  if (scope) {
    const leaves = `ip saddr ${scope.clusterCidr} ip daddr != ${scope.clusterCidr} ip daddr != 224.0.0.0/4`
    rule('postrouting', `${leaves} masquerade`)
  }
  for (const [filter, hook] of [
    ['filter-forward', 'forward'],
    ['filter-output', 'output'],
  ] as const) {
    chain(filter, `type filter hook ${hook} priority 0;`)
    rule(filter, 'ip daddr . meta l4proto . th dport vmap @no-endpoints')
    // Nobody's address: an answer at once, and no way out for what belongs to the cluster.
    if (scope) rule(filter, `ip daddr ${scope.serviceCidr} goto refuse`)
  }
  const empty: NftTable = { chains: new Map(), maps: new Map(Object.keys(MAPS).map((map) => [map, new Map()])) }
  return `${lines.join('\n')}\n${differenceScript(name, empty, table)}`
}

/** The script that turns `from` into `to`: only what differs, in an order that nft accepts. Empty: nothing differs. */
export function differenceScript(name: string, from: NftTable, to: NftTable): string {
  const lines: string[] = []
  const changed = [...to.chains].filter(([chain, rules]) => from.chains.get(chain)?.join('\n') !== rules.join('\n'))
  const gone = [...from.chains.keys()].filter((chain) => !to.chains.has(chain))
  for (const [chain] of changed) if (!from.chains.has(chain)) lines.push(`add chain ip ${name} ${chain}`)
  // Targets' chains come before what refers to them, and nothing may refer to a chain when it is deleted.
  for (const [chain, rules] of changed) {
    if (from.chains.has(chain)) lines.push(`flush chain ip ${name} ${chain}`)
    for (const rule of rules) lines.push(`add rule ip ${name} ${chain} ${rule}`)
  }
  for (const [map, elements] of to.maps) {
    const before = from.maps.get(map) ?? new Map<string, string>()
    const drop = [...before].filter(([key, value]) => elements.get(key) !== value)
    const add = [...elements].filter(([key, value]) => before.get(key) !== value)
    if (drop.length > 0)
      lines.push(`delete element ip ${name} ${map} { ${drop.map(([key, value]) => `${key} : ${value}`).join(', ')} }`)
    if (add.length > 0)
      lines.push(`add element ip ${name} ${map} { ${add.map(([key, value]) => `${key} : ${value}`).join(', ')} }`)
  }
  for (const chain of gone) lines.push(`flush chain ip ${name} ${chain}`)
  for (const chain of gone) lines.push(`delete chain ip ${name} ${chain}`)
  return lines.length > 0 ? `${lines.join('\n')}\n` : ''
}

/** FNV-1a, 64 bit, base 16: short chain names for long Service names. */
function chainHash(text: string): string {
  let hash = 0xcbf29ce484222325n
  for (const byte of new TextEncoder().encode(text)) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n)
  return hash.toString(16).padStart(16, '0')
}
