import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Caller, type Log } from '@capstan/actor'
import { makeCa, makeClientCertificate, makeServerCertificate } from '@capstan/certs'
import { type EtcdFaceOptions, startEtcdFace } from '@capstan/etcd'
import { type EtcdDoor, openEtcdDoor } from '@capstan/etcd/edge'
import { grants, type Identity, identityToken, type StoreVerb, Subjects } from '@capstan/protocol'
import { MemoryBroker, type MemoryBus, MemoryDisk, RealClock, RealRandom, realLog, silentLog } from '@capstan/real'
import { type StoreHandle, type StoreOptions, startStore } from '@capstan/store'

const CLUSTER = 'etcd-test'
const HOUR_MS = 3600_000

/** Three members of the store in this process, each with its etcd face behind TLS on a port of loopback. */
export class FaceCluster {
  readonly members = ['m1', 'm2', 'm3']
  readonly doors = new Map<string, EtcdDoor>()
  readonly stores = new Map<string, StoreHandle>()
  private readonly broker = new MemoryBroker()
  private readonly clock = new RealClock()
  private readonly subjects = new Subjects(CLUSTER)
  private readonly buses = new Map<string, MemoryBus[]>()
  private readonly disks = new Map<string, MemoryDisk>()
  private readonly log: Log = process.env.ETCD_TEST_LOG
    ? realLog({ name: 'etcd', level: process.env.ETCD_TEST_LOG })
    : silentLog
  private instances = 0

  private constructor(
    /** Holds `ca.crt`, `client.crt`, `client.key`. */
    readonly directory: string,
    private readonly options: { store?: Partial<StoreOptions>; face?: Partial<EtcdFaceOptions> },
  ) {}

  static async start(
    options: { store?: Partial<StoreOptions>; face?: Partial<EtcdFaceOptions> } = {},
  ): Promise<FaceCluster> {
    const cluster = new FaceCluster(await mkdtemp(join(tmpdir(), 'capstan-etcd-')), options)
    const validity = { notBeforeMs: Date.now() - HOUR_MS, notAfterMs: Date.now() + HOUR_MS }
    const ca = await makeCa('etcd-test', validity)
    const server = await makeServerCertificate(ca, {
      ...validity,
      commonName: 'etcd',
      dnsNames: ['localhost'],
      ipAddresses: ['127.0.0.1'],
    })
    const client = await makeClientCertificate(ca, { ...validity, user: 'etcd-client', groups: [] })
    await Promise.all([
      writeFile(join(cluster.directory, 'ca.crt'), ca.cert),
      writeFile(join(cluster.directory, 'client.crt'), client.cert),
      writeFile(join(cluster.directory, 'client.key'), client.key, { mode: 0o600 }),
    ])
    await Promise.all(cluster.members.map((member) => cluster.startMember(member, 'new')))
    const clientUrls: Record<string, string[]> = {}
    for (const member of cluster.members) {
      const door = await openEtcdDoor({
        hosts: ['127.0.0.1'],
        port: 0,
        tls: { ca: ca.cert, cert: server.cert, key: server.key },
        log: cluster.log,
        open: () => Promise.resolve(cluster.face(member, clientUrls)),
      })
      cluster.doors.set(member, door)
      clientUrls[member] = [`https://127.0.0.1:${door.port}`]
    }
    await cluster.leader()
    return cluster
  }

  /** All faces, the leader's first. */
  async endpoints(): Promise<string[]> {
    const leader = await this.leader()
    const names = [leader, ...this.members.filter((name) => name !== leader)]
    return names.map((name) => `https://127.0.0.1:${this.doors.get(name)?.port}`)
  }

  endpoint(member: string): string {
    return `https://127.0.0.1:${this.doors.get(member)?.port}`
  }

  async startMember(
    member: string,
    emptyDirectory: 'new' | 'existing' | 'join',
    more: Partial<StoreOptions> = {},
  ): Promise<void> {
    const disk = this.disks.get(member) ?? new MemoryDisk()
    this.disks.set(member, disk)
    const bus = this.connect({ component: 'store', name: member }, member)
    const handle = await startStore(
      { clock: this.clock, random: new RealRandom(), bus, disk, log: this.log },
      {
        cluster: CLUSTER,
        clusterId: 'c1',
        member,
        members: this.members,
        emptyDirectory,
        heartbeatMs: 30,
        electionTimeoutMs: 300,
        compaction: 'off',
        ...this.options.store,
        ...more,
      },
    )
    this.stores.set(member, handle)
  }

  /** Ends a member as a crash does: its connection breaks first. The face beside it lives on. */
  async kill(member: string): Promise<void> {
    for (const bus of this.buses.get(member)?.splice(0) ?? []) await bus.close()
    await this.stores.get(member)?.kill()
    this.stores.delete(member)
  }

  /** The member that leads, as a majority says. */
  async leader(): Promise<string> {
    const deadline = this.clock.monotonicMs() + 20_000
    for (;;) {
      const all = await Promise.all([...this.stores.values()].map((handle) => handle.status()))
      const leading = all.filter(({ role }) => role === 'leader').sort((a, b) => b.term - a.term)[0]
      const name = leading?.header.member
      if (name !== undefined && all.filter(({ leader }) => leader === name).length * 2 > this.members.length)
        return name
      if (this.clock.monotonicMs() > deadline) throw new Error('no leader in 20 s')
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  async end(): Promise<void> {
    for (const door of this.doors.values()) await door.close()
    for (const member of [...this.stores.keys()]) await this.kill(member)
    for (const buses of this.buses.values()) for (const bus of buses) await bus.close()
    await rm(this.directory, { recursive: true, force: true })
  }

  /** Asks a member directly, as an administrator. */
  async ask(member: string, verb: StoreVerb, body: object): Promise<unknown> {
    const bus = this.connect({ component: 'admin', name: 'test' }, 'admin')
    const caller = new Caller({ clock: this.clock, bus, log: this.log })
    try {
      return await caller.call(this.subjects.store(member, bus.identity, verb), body, { timeoutMs: 5000 })
    } finally {
      caller.close()
      await bus.close()
    }
  }

  private face(member: string, clientUrls: EtcdFaceOptions['clientUrls']) {
    const bus = this.connect({ component: 'etcd', name: member }, 'faces')
    return startEtcdFace(
      { clock: this.clock, random: new RealRandom(), bus, disk: new MemoryDisk(), log: this.log },
      {
        cluster: CLUSTER,
        member,
        members: [member, ...this.members.filter((name) => name !== member)],
        clientUrls,
        ...this.options.face,
      },
    )
  }

  private connect(identity: Identity, owner: string): MemoryBus {
    const token = identityToken(identity)
    const bus = this.broker.connect({
      identity: token,
      inbox: this.subjects.inbox(token, `i${++this.instances}`),
      grants: grants(CLUSTER, identity),
    })
    this.buses.set(owner, [...(this.buses.get(owner) ?? []), bus])
    return bus
  }
}
