import { execFile } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import type { PresentRoute, Route, Routes } from '../routes.js'

const IP_TIMEOUT_MS = 10_000
/** Who made a route, as the kernel keeps it (rtm_protocol; numbers from 5 on are free for routing daemons). */
const PROTOCOL = '89'

/** The main table of this network namespace, by `ip`; `command`: how to call it elsewhere (`['ip', '-n', 'name']`). */
export class IpRoutes implements Routes {
  constructor(private readonly command: readonly string[] = ['ip']) {}

  async list(): Promise<PresentRoute[]> {
    const text = await this.ip('-4', '-N', '-j', 'route', 'show', 'table', 'main')
    const found = JSON.parse(text || '[]') as {
      dst: string
      gateway?: string
      dev?: string
      prefsrc?: string
      protocol: string | number
    }[]
    return found.map(({ dst, gateway, dev, prefsrc, protocol }) => ({
      destination: dst === 'default' ? '0.0.0.0/0' : dst.includes('/') ? dst : `${dst}/32`,
      ...(gateway === undefined ? {} : { via: gateway }),
      ...(dev === undefined ? {} : { device: dev }),
      ...(prefsrc === undefined ? {} : { source: prefsrc }),
      own: String(protocol) === PROTOCOL,
    }))
  }

  async add(route: Route): Promise<void> {
    await this.ip('route', 'add', ...words(route))
  }

  async change(route: Route): Promise<void> {
    await this.ip('route', 'replace', ...words(route))
  }

  async remove({ destination }: Route): Promise<void> {
    await this.ip('route', 'del', destination, 'proto', PROTOCOL)
  }

  private ip(...args: string[]): Promise<string> {
    const [program = 'ip', ...before] = this.command
    return new Promise((resolve, reject) => {
      execFile(program, [...before, ...args], { timeout: IP_TIMEOUT_MS }, (error, stdout, stderr) =>
        error
          ? reject(new Error(`ip ${args.join(' ')}: ${stderr.trim() || error.message}`, { cause: error }))
          : resolve(stdout),
      )
    })
  }
}

function words({ destination, via, device, source }: Route): string[] {
  return [
    destination,
    ...(via === undefined ? [] : ['via', via]),
    ...(device === undefined || via !== undefined ? [] : ['dev', device]),
    ...(source === undefined ? [] : ['src', source]),
    'proto',
    PROTOCOL,
  ]
}

/**
 * Lets this network namespace pass packets on, and its bridges show theirs to the packet rules: without the second, a pod that
 * asks a Service answered by a neighbour on its own node gets answers from an address that it does not know. Returns what could
 * not be set, for people.
 */
export function enableForwarding(): string[] {
  const troubles: string[] = []
  for (const file of ['/proc/sys/net/ipv4/ip_forward', '/proc/sys/net/bridge/bridge-nf-call-iptables'])
    try {
      if (existsSync(file)) writeFileSync(file, '1')
      else troubles.push(`${file} is not there: the kernel module br_netfilter is not loaded (modprobe br_netfilter)`)
    } catch (error) {
      troubles.push(`${file}: ${(error as Error).message}`)
    }
  return troubles
}
