import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { hasCommand, isRoot, run } from './shell.js'

/** One thing that Capstan uses of the host: how to see that it is there, which Debian package brings it, and what for. */
interface Need {
  what: string
  present: () => boolean
  debianPackage: string
  why: string
}

const CNI_DIRECTORY = '/usr/lib/cni'
const SERVICE_POLICY = '/usr/sbin/policy-rc.d'

const BUS: Need[] = [
  {
    what: 'nats-server',
    present: () => hasCommand('nats-server'),
    debianPackage: 'nats-server',
    why: 'the message bus between machines',
  },
]

const CONTAINERS: Need[] = [
  {
    what: 'containerd',
    present: () => hasCommand('containerd') && hasCommand('ctr'),
    debianPackage: 'containerd',
    why: 'runs the containers of each node',
  },
  { what: 'runc', present: () => hasCommand('runc'), debianPackage: 'runc', why: 'starts a container' },
  {
    what: 'CNI plugins',
    present: () => existsSync(`${CNI_DIRECTORY}/bridge`),
    debianPackage: 'containernetworking-plugins',
    why: 'gives pods their addresses',
  },
  {
    what: 'nft',
    present: () => hasCommand('nft'),
    debianPackage: 'nftables',
    why: 'forwards Service addresses to pods',
  },
  {
    what: 'ip',
    present: () => hasCommand('ip'),
    debianPackage: 'iproute2',
    why: 'gives each node a network namespace',
  },
  {
    what: 'nsenter',
    present: () => hasCommand('nsenter'),
    debianPackage: 'util-linux',
    why: 'starts a node in its namespace',
  },
]

const ETCD: Need[] = [
  {
    what: 'etcd',
    present: () => hasCommand('etcd'),
    debianPackage: 'etcd-server',
    why: 'the store that ours is measured against',
  },
  {
    what: 'etcdctl',
    present: () => hasCommand('etcdctl'),
    debianPackage: 'etcd-client',
    why: "a client of etcd's that nobody here wrote",
  },
]

export interface HostAbilities {
  bus: boolean
  containers: boolean
  /** Why not, for people. */
  lacks: string[]
}

/** Installs what is missing where that is possible (root on Debian), saying what and why; tells what there is then. */
export async function provideHost(
  wanted: { bus: boolean; containers: boolean },
  say: (text: string) => void,
): Promise<HostAbilities> {
  const needs = [...(wanted.bus ? BUS : []), ...(wanted.containers && isRoot() ? CONTAINERS : [])]
  await install(needs, say)
  const lacks: string[] = []
  const have = (list: Need[]) => {
    const gone = lacking(list)
    lacks.push(...gone)
    return gone.length === 0
  }
  const bus = wanted.bus ? have(BUS) : false
  let containers = false
  if (wanted.containers) {
    if (!isRoot()) lacks.push('not root: containers need root; pods run as plain processes of this host')
    else containers = have(CONTAINERS)
  }
  return { bus, containers, lacks }
}

/** etcd and its client for tests and benchmarks: the programs alone, no service is started. What is still missing stands in `lacks`. */
export async function provideEtcd(say: (text: string) => void): Promise<{ lacks: string[] }> {
  // Debian's maintainer scripts start no service that this program forbids (101). One that the host has is heeded as well.
  const mine = isRoot() && !existsSync(SERVICE_POLICY) && ETCD.some((need) => !need.present())
  if (mine) writeFileSync(SERVICE_POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    await install(ETCD, say)
  } finally {
    if (mine) rmSync(SERVICE_POLICY, { force: true })
  }
  return { lacks: lacking(ETCD) }
}

async function install(needs: readonly Need[], say: (text: string) => void): Promise<void> {
  const missing = needs.filter((need) => !need.present())
  if (missing.length > 0 && isRoot() && hasCommand('apt-get')) {
    for (const need of missing) say(`installing Debian package ${need.debianPackage}: ${need.why}`)
    const names = missing.map((need) => need.debianPackage)
    const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
    const attempt = () =>
      run('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...names], {
        timeoutMs: 600_000,
        env: environment,
      })
    let done = await attempt()
    if (done.code !== 0) {
      // A new machine has no package lists yet.
      await run('apt-get', ['update', '-q'], { timeoutMs: 300_000, env: environment })
      done = await attempt()
    }
    if (done.code !== 0) say(`could not install ${names.join(', ')}: ${done.stderr.trim().split('\n').at(-1) ?? ''}`)
  }
}

function lacking(needs: readonly Need[]): string[] {
  return needs
    .filter((need) => !need.present())
    .map((need) => `${need.what} is missing (Debian package ${need.debianPackage}): ${need.why}`)
}
