/** Machines as network namespaces on one wire: routes and rules as a kernel keeps them. */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { after, before, describe, test } from 'node:test'
import { RESOURCES } from '@capstan/client'
import { FakeApiClient, ManualClock, manualWorld, MemoryBroker } from '@capstan/client/testing'
import { RealClock } from '@capstan/real'
import { IpRoutes } from './edge/ip-routes.js'
import { NftablesRules } from './edge/nftables-rules.js'
import { computeForwards, type EndpointSliceView, type ServiceView } from './forwarding.js'
import { type NodeRoutesHandle, type NodeView, startNodeRoutes } from './node-routes.js'

const SCOPE = { clusterCidr: '10.244.0.0/16', serviceCidr: '10.96.0.0/16' }
const id = `cr${process.pid}`
const ns = (name: string) => `${id}-${name}`
const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8' })
const possible =
  process.getuid?.() === 0 &&
  ['nft', 'bash'].every((program) => spawnSync(program, ['--version']).status === 0) &&
  spawnSync('unshare', ['--net', 'ip', 'link', 'add', 'type', 'veth']).status === 0

/** Namespaces, their addresses on the wire; those of nodes have a bridge for pods. */
const MACHINES = { a: '10.99.0.1', b: '10.99.0.2', m: '10.99.0.3', x: '10.99.0.9' }
const PODS = { a1: '10.244.1.2', a2: '10.244.1.3', b1: '10.244.2.2' }
const PORT = 8080

describe('machines on one wire', { skip: possible ? false : 'needs root, nft, bash and network namespaces' }, () => {
  const made: string[] = []
  const servers: ChildProcess[] = []
  const keepers: NodeRoutesHandle[] = []
  const clock = new RealClock()
  const world = { ...manualWorld({ clock: new ManualClock(), broker: new MemoryBroker(new ManualClock()) }), clock }
  const api = new FakeApiClient(clock)

  before(async () => {
    const add = (name: string) => {
      ip('netns', 'add', ns(name))
      made.push(ns(name))
      ip('-n', ns(name), 'link', 'set', 'lo', 'up')
    }
    const cable = (name: string, address: string, bridgeNs: string, bridge: string, at: string) => {
      ip('-n', ns(bridgeNs), 'link', 'add', at, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', ns(name))
      ip('-n', ns(bridgeNs), 'link', 'set', at, 'master', bridge, 'up')
      ip('-n', ns(name), 'addr', 'add', `${address}/24`, 'dev', 'eth0')
      ip('-n', ns(name), 'link', 'set', 'eth0', 'up')
    }
    add('wire')
    ip('-n', ns('wire'), 'link', 'add', 'wire', 'type', 'bridge')
    ip('-n', ns('wire'), 'link', 'set', 'wire', 'up')
    for (const [name, address] of Object.entries(MACHINES)) {
      add(name)
      cable(name, address, 'wire', 'wire', `w-${name}`)
      if (name === 'x') continue
      execFileSync('ip', ['netns', 'exec', ns(name), 'sysctl', '-q', '-w', 'net.ipv4.ip_forward=1'])
    }
    for (const [name, net] of [
      ['a', '10.244.1'],
      ['b', '10.244.2'],
    ] as const) {
      ip('-n', ns(name), 'link', 'add', 'cni0', 'type', 'bridge')
      ip('-n', ns(name), 'addr', 'add', `${net}.1/24`, 'dev', 'cni0')
      ip('-n', ns(name), 'link', 'set', 'cni0', 'up')
      api.seed(RESOURCES.nodes, nodeView(name, `${net}.0/24`, MACHINES[name]))
    }
    for (const [name, address] of Object.entries(PODS)) {
      add(name)
      cable(name, address, name.slice(0, 1), 'cni0', `p-${name}`)
      // As the CNI configuration asks for: a pod may be sent back to itself.
      ip('-n', ns(name.slice(0, 1)), 'link', 'set', `p-${name}`, 'type', 'bridge_slave', 'hairpin', 'on')
      ip('-n', ns(name), 'route', 'add', 'default', 'via', address.replace(/\d+$/, '1'))
    }
    await Promise.all(['a1', 'a2', 'b1', 'x'].map((name) => serve(name)))
    const forwards = computeForwards(
      [service('b', '10.96.0.10', 30_080), service('a', '10.96.0.11')],
      [slice('b', PODS.b1), slice('a', PODS.a2)],
      '',
    )
    for (const name of ['a', 'b', 'm'] as const) {
      const routes = new IpRoutes(['ip', '-n', ns(name)])
      const nodeName = name === 'm' ? '' : name
      keepers.push(
        startNodeRoutes(world, { client: api, nodeName, address: MACHINES[name], ...SCOPE, routes, lookMs: 200 }),
      )
      const nft = ['ip', 'netns', 'exec', ns(name), 'nft']
      await new NftablesRules('capstan', SCOPE, nft).apply(forwards)
    }
    await until(() => keepers.every((keeper) => keeper.synced))
  })

  after(async () => {
    for (const keeper of keepers) await keeper.stop()
    for (const server of servers) server.kill('SIGKILL')
    for (const name of made) spawnSync('ip', ['netns', 'del', name])
  })

  /** Says whom it sees. */
  function serve(name: string): Promise<void> {
    const program = `require('net').createServer((s) => { s.on('error', () => {}); s.end('${name} saw ' + s.remoteAddress) }).listen(${PORT}, '0.0.0.0', () => console.log('up'))`
    const child = spawn('ip', ['netns', 'exec', ns(name), process.execPath, '-e', program])
    servers.push(child)
    return new Promise((resolve, reject) => {
      child.stdout.once('data', () => resolve())
      child.once('exit', () => reject(new Error(`the server in ${name} ended`)))
    })
  }

  function ask(from: string, address: string, port = PORT): string {
    const script = `exec 3<>/dev/tcp/${address}/${port} && cat <&3`
    const ran = spawnSync('ip', ['netns', 'exec', ns(from), 'timeout', '5', 'bash', '-c', script], { encoding: 'utf8' })
    return ran.status === 0 ? ran.stdout : `exit ${ran.status} ${ran.stderr}`
  }

  test('pods reach pods of other nodes, and are seen as themselves', () => {
    assert.equal(ask('a1', PODS.b1), `b1 saw ${PODS.a1}`)
    assert.equal(ask('b1', PODS.a1), `a1 saw ${PODS.b1}`)
  })

  test('a master reaches pods, and Services though it has no default route', () => {
    assert.equal(ask('m', PODS.b1), `b1 saw ${MACHINES.m}`)
    assert.equal(ask('m', '10.96.0.10', 80), `b1 saw ${MACHINES.m}`)
  })

  test('Services from pods: on another node, on the same, and on a node itself', () => {
    assert.equal(ask('a1', '10.96.0.10', 80), `b1 saw ${PODS.a1}`)
    assert.equal(ask('a1', '10.96.0.11', 80), `a2 saw ${PODS.a1}`)
    assert.equal(ask('a2', '10.96.0.11', 80), 'a2 saw 10.244.1.1')
    assert.equal(ask('a', '10.96.0.10', 80), `b1 saw ${MACHINES.a}`)
    assert.equal(ask('b', '10.96.0.10', 80), 'b1 saw 10.244.2.1')
  })

  test('a node port from outside, on any machine, wherever the pod is', () => {
    assert.equal(ask('x', MACHINES.a, 30_080), `b1 saw ${MACHINES.a}`)
    assert.equal(ask('x', MACHINES.m, 30_080), `b1 saw ${MACHINES.m}`)
    assert.equal(ask('x', MACHINES.b, 30_080), 'b1 saw 10.244.2.1')
  })

  test('what leaves the cluster bears the address of its node; nobody’s Service refuses at once', () => {
    assert.equal(ask('a1', MACHINES.x), `x saw ${MACHINES.a}`)
    for (const from of ['a1', 'm']) assert.match(ask(from, '10.96.7.7', 80), /refused|unreachable/)
  })

  test('routes come back when somebody removes them, follow a node that moves, and go with the keeper', async () => {
    const routes = (name: string) => ip('-n', ns(name), 'route', 'show')
    ip('-n', ns('a'), 'route', 'add', '172.30.0.0/24', 'via', MACHINES.x)
    ip('-n', ns('a'), 'route', 'del', '10.244.2.0/24')
    await until(() => routes('a').includes('10.244.2.0/24'))
    assert.equal(ask('a1', PODS.b1), `b1 saw ${PODS.a1}`)

    ip('-n', ns('b'), 'addr', 'add', '10.99.0.22/24', 'dev', 'eth0')
    ip('-n', ns('b'), 'addr', 'del', `${MACHINES.b}/24`, 'dev', 'eth0')
    ip('-n', ns('b'), 'addr', 'add', '10.99.0.22/24', 'dev', 'eth0')
    api.change<NodeView>(
      RESOURCES.nodes,
      'b',
      (n) => void Object.assign(n, { status: nodeView('b', '', '10.99.0.22').status }),
    )
    await until(() => routes('a').includes('10.244.2.0/24 via 10.99.0.22'))
    await until(() => routes('m').includes('10.244.2.0/24 via 10.99.0.22'))
    assert.equal(ask('m', '10.96.0.10', 80), `b1 saw ${MACHINES.m}`)

    await keepers[0]?.stop({ clear: true })
    assert.doesNotMatch(routes('a'), /10\.244\.2\.0|10\.96\.0\.0/)
    assert.match(routes('a'), /172\.30\.0\.0\/24/)
  })

  async function until(condition: () => boolean): Promise<void> {
    for (let left = 200; !condition(); left--) {
      assert.ok(left > 0, `does not hold after 10 s: ${condition}`)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
})

function nodeView(name: string, podCIDR: string, address: string): NodeView {
  return { metadata: { name }, spec: { podCIDR }, status: { addresses: [{ type: 'InternalIP', address }] } }
}

function service(name: string, clusterIP: string, nodePort?: number): ServiceView {
  const port = { port: 80, ...(nodePort === undefined ? {} : { nodePort }) }
  return { metadata: { namespace: 'default', name }, spec: { type: 'NodePort', clusterIP, ports: [port] } }
}

function slice(name: string, address: string): EndpointSliceView {
  return {
    metadata: { namespace: 'default', name, labels: { 'kubernetes.io/service-name': name } },
    addressType: 'IPv4',
    ports: [{ port: PORT }],
    endpoints: [{ addresses: [address] }],
  }
}
