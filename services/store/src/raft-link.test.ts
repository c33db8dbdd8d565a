import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encode } from '@capstan/actor'
import { grants, identityToken, Subjects } from '@capstan/protocol'
import { MemoryBroker, RealClock, silentLog } from '@capstan/real'
import { type RaftFrame, RaftLink } from './raft-link.js'

test('frames of any size arrive whole; garbage and other clusters are refused', async () => {
  const broker = new MemoryBroker({ payloadBytesMax: 4096 })
  const subjects = new Subjects('c')
  const connect = (name: string) => {
    const identity = { component: 'store', name } as const
    const token = identityToken(identity)
    return broker.connect({ identity: token, inbox: subjects.inbox(token, 'i'), grants: grants('c', identity) })
  }
  const link = (member: string, clusterId = 'id') => {
    const frames: RaftFrame[] = []
    const gone: string[] = []
    const bus = connect(member)
    const self = { cluster: 'c', clusterId, member, incarnation: `i-${member}`, origin: 'new' }
    return {
      frames,
      bus,
      link: new RaftLink(
        bus,
        silentLog,
        self,
        (frame) => frames.push(frame),
        (member) => gone.push(member),
      ),
      gone,
    }
  }
  const a = link('a.1')
  const b = link('b')
  const stranger = link('s', 'other')
  const garbage: Uint8Array[] = [
    new Uint8Array([0xc1]),
    new Uint8Array(0),
    encode('x'),
    encode([1]),
    encode([1, 'id', 'i', 'new', []]),
    encode([2, 'id', 'i', 'new', [{ entries: new Uint8Array([0, 0, 0, 1]) }]]),
    encode([2, 'id', 'i', 'new', 'no list']),
    encode([2, 'piece', 1, 0, 1, 'no bytes']),
    encode([2, 'piece', 2, 0, 1, encode(7)]),
    encode([2, 'piece', 3, 1, 2, encode(7)]),
  ]
  for (const bytes of garbage) a.bus.publish(subjects.raft('a.1', 'b'), bytes)
  stranger.link.send('b', [{ from: 's' }])
  a.link.send('b', [{ small: 1 }])
  a.link.send('b', [{ large: new Uint8Array(50_000).fill(7) }])
  a.link.send('b', [{ after: true }])
  const clock = new RealClock()
  while (b.frames.length < 3) await new Promise<void>((resolve) => clock.defer(resolve))
  assert.deepEqual(
    b.frames.map(({ from, incarnation }) => `${from} ${incarnation}`),
    Array(3).fill('a.1 i-a.1'),
  )
  assert.deepEqual(b.frames[0]?.messages, [{ small: 1 }])
  assert.equal((b.frames[1]?.messages[0] as { large: Uint8Array } | undefined)?.large.length, 50_000)
  assert.deepEqual(b.frames[2]?.messages, [{ after: true }])
})

test('a probe tells that nobody listens for a member, and nothing of one that lives', async () => {
  const broker = new MemoryBroker()
  const subjects = new Subjects('c')
  const link = (member: string) => {
    const identity = { component: 'store', name: member } as const
    const token = identityToken(identity)
    const bus = broker.connect({ identity: token, inbox: subjects.inbox(token, 'i'), grants: grants('c', identity) })
    const gone: string[] = []
    const frames: RaftFrame[] = []
    const self = { cluster: 'c', clusterId: 'id', member, incarnation: 'i', origin: 'new' }
    return {
      bus,
      gone,
      frames,
      link: new RaftLink(
        bus,
        silentLog,
        self,
        (f) => frames.push(f),
        (m) => gone.push(m),
      ),
    }
  }
  const a = link('a')
  const lives = link('lives')
  const dies = link('di.es')
  await dies.bus.close()
  a.link.probe('lives')
  a.link.probe('di.es')
  const clock = new RealClock()
  while (a.gone.length === 0 || lives.frames.length === 0) await new Promise<void>((resolve) => clock.defer(resolve))
  assert.deepEqual(a.gone, ['di.es'])
  assert.deepEqual(lives.frames[0]?.messages, [])
})

test('goes by the bus beside the other member while that is up, else by its own', async () => {
  const broker = new MemoryBroker()
  const subjects = new Subjects('c')
  const connect = (name: string, instance = 'i') => {
    const identity = { component: 'store', name } as const
    const token = identityToken(identity)
    return broker.connect({ identity: token, inbox: subjects.inbox(token, instance), grants: grants('c', identity) })
  }
  const said = { own: 0, beside: 0 }
  const counted = (bus: ReturnType<typeof connect>, by: keyof typeof said) => {
    const publish = bus.publish.bind(bus)
    bus.publish = (...args) => {
      said[by]++
      publish(...args)
    }
    return bus
  }
  const own = counted(connect('a'), 'own')
  const beside = counted(connect('a', 'beside'), 'beside')
  const self = { cluster: 'c', clusterId: 'id', member: 'a', incarnation: 'i', origin: 'new' }
  const ignore = () => undefined
  const a = new RaftLink(own, silentLog, self, ignore, ignore, (member) => (member === 'b' ? beside : undefined))
  const frames: RaftFrame[] = []
  new RaftLink(connect('b'), silentLog, { ...self, member: 'b' }, (frame) => frames.push(frame), ignore)
  a.send('b', [{ number: 1 }])
  a.send('c', [{ number: 2 }])
  await beside.close()
  a.send('b', [{ number: 3 }])
  const clock = new RealClock()
  while (frames.length < 2) await new Promise<void>((resolve) => clock.defer(resolve))
  assert.deepEqual(said, { own: 2, beside: 1 })
  assert.deepEqual(
    frames.map(({ messages }) => messages),
    [[{ number: 1 }], [{ number: 3 }]],
  )
})
