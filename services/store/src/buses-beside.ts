import type { Bus } from '@capstan/actor'

/** A bus connection as this needs it. */
export interface BesideBus extends Bus {
  setServers(servers: readonly string[]): void
  close(): Promise<void>
}

interface Link {
  server: string
  bus: BesideBus | undefined
  readonly ending: AbortController
}

/**
 * Connections to the bus servers beside the other members (`StoreWorld.busBeside`): one each, tried for as long as that member
 * is named. Nothing waits for them: until one is up, and while it is down, raft's own connection serves.
 */
export class BusesBeside {
  private readonly links = new Map<string, Link>()

  constructor(
    private readonly member: string,
    /** Resolves when connected; tries on until `signal` is aborted, then rejects. */
    private readonly connect: (member: string, server: string, signal: AbortSignal) => Promise<BesideBus>,
  ) {}

  get(member: string): Bus | undefined {
    return this.links.get(member)?.bus
  }

  /** `servers`: `host:port` by member, all of them, perhaps this one as well. */
  follow(servers: Readonly<Record<string, string>>): void {
    for (const [member, link] of this.links) {
      const server = servers[member]
      if (server !== undefined && (server === link.server || link.bus)) {
        link.server = server
        link.bus?.setServers([server])
      } else void this.end(member, link)
    }
    for (const [member, server] of Object.entries(servers))
      if (member !== this.member && !this.links.has(member)) this.begin(member, server)
  }

  async close(): Promise<void> {
    await Promise.all([...this.links].map(([member, link]) => this.end(member, link)))
  }

  private begin(member: string, server: string): void {
    const link: Link = { server, bus: undefined, ending: new AbortController() }
    this.links.set(member, link)
    this.connect(member, server, link.ending.signal).then(
      (bus) => {
        if (link.ending.signal.aborted) void bus.close()
        else link.bus = bus
      },
      () => undefined, // Given up by `end`.
    )
  }

  private async end(member: string, link: Link): Promise<void> {
    this.links.delete(member)
    link.ending.abort()
    await link.bus?.close()
  }
}
