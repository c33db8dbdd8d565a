import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { type ClusterLayout, namesOf, type NodeLayout } from './layout.js'
import { must, run } from './shell.js'

/**
 * The host's part of the network: one bridge for the cluster; for each node a namespace with a veth on that bridge, as if it
 * were a machine on a wire; routes to the nodes' pods. Every step may be repeated.
 */
export async function setUpNetwork(layout: ClusterLayout): Promise<void> {
  const { bridge } = layout
  if ((await run('ip', ['link', 'show', bridge])).code !== 0)
    await must('ip', ['link', 'add', bridge, 'type', 'bridge'])
  await must('ip', ['addr', 'replace', `${layout.hostAddress}/24`, 'dev', bridge])
  await must('ip', ['link', 'set', bridge, 'up'])
  writeFileSync('/proc/sys/net/ipv4/ip_forward', '1')
  for (const node of layout.nodes) await setUpNode(layout, node)
}

async function setUpNode(layout: ClusterLayout, node: NodeLayout): Promise<void> {
  const names = namesOf(layout)
  const netns = names.netns(node.name)
  const veth = names.veth(node.name)
  const existing = await must('ip', ['netns', 'list'])
  if (!existing.split('\n').some((line) => line.split(' ')[0] === netns)) {
    await must('ip', ['netns', 'add', netns])
    await run('ip', ['link', 'del', veth])
    await must('ip', ['link', 'add', veth, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns])
    await must('ip', ['link', 'set', veth, 'master', layout.bridge, 'up'])
    await must('ip', ['-n', netns, 'link', 'set', 'lo', 'up'])
    await must('ip', ['-n', netns, 'addr', 'add', `${node.address}/24`, 'dev', 'eth0'])
    await must('ip', ['-n', netns, 'link', 'set', 'eth0', 'up'])
    await must('ip', ['-n', netns, 'route', 'replace', 'default', 'via', layout.hostAddress])
    await must('ip', ['netns', 'exec', netns, 'sysctl', '-q', '-w', 'net.ipv4.ip_forward=1'])
    for (const other of layout.nodes)
      if (other.name !== node.name)
        await must('ip', ['-n', netns, 'route', 'replace', other.podCidr, 'via', other.address])
  }
  await must('ip', ['route', 'replace', node.podCidr, 'via', node.address, 'dev', layout.bridge])
}

/** Removes what `setUpNetwork` made, whatever is left of it. */
export async function tearDownNetwork(layout: ClusterLayout): Promise<void> {
  const names = namesOf(layout)
  for (const node of layout.nodes) {
    await run('ip', ['netns', 'del', names.netns(node.name)])
    await run('ip', ['link', 'del', names.veth(node.name)])
  }
  await run('ip', ['link', 'del', layout.bridge])
  await run('nft', ['delete', 'table', 'ip', `capstan${layout.slot}`])
}

/** Address ranges of this host that the layout would collide with: a clear word instead of odd failures later. */
export async function networkConflict(layout: ClusterLayout): Promise<string | undefined> {
  const routes = await must('ip', ['-o', 'route', 'show'])
  for (const line of routes.split('\n')) {
    const [destination] = line.split(' ')
    if (!destination || destination === 'default' || line.includes(`dev ${layout.bridge}`)) continue
    for (const cidr of [layout.nodeCidr, layout.podCidr, layout.serviceCidr])
      if (overlaps(cidr, destination))
        return `this host already has a route to ${destination}, which overlaps the cluster's range ${cidr}`
  }
  return undefined
}

function overlaps(a: string, b: string): boolean {
  const range = (cidr: string): [number, number] => {
    const [address = '', bits = '32'] = cidr.split('/')
    const base = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)
    const size = 2 ** (32 - Number(bits))
    return [Math.floor(base / size) * size, Math.floor(base / size) * size + size - 1]
  }
  if (!/^\d+\.\d+\.\d+\.\d+/.test(b)) return false
  const [a0, a1] = range(a)
  const [b0, b1] = range(b)
  return a0 <= b1 && b0 <= a1
}

/** Mount points below a directory, deepest first. */
export function mountsBelow(directory: string): string[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => (line.split(' ')[1] ?? '').replace(/\\040/g, ' '))
    .filter((path) => path.startsWith(`${directory}/`))
    .sort((a, b) => b.length - a.length)
}

/** Processes whose working directory, executable or root lies below a directory, or whose command line names it. */
export function processesNaming(directory: string): number[] {
  const found: number[] = []
  for (const entry of readdirSync('/proc')) {
    const pid = Number(entry)
    if (!Number.isInteger(pid) || pid === process.pid) continue
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      const cwd = readlinkSync(`/proc/${pid}/cwd`)
      if (cwd.startsWith(`${directory}/`) || command.some((argument) => argument.includes(`${directory}/`)))
        found.push(pid)
    } catch {
      // It ended while we looked.
    }
  }
  return found
}
