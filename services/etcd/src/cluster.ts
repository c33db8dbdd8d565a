import { CallError } from '@capstan/actor'
import type { MemberInfo, MembersReply, StoreStatusReply } from '@capstan/protocol'
import { EtcdError, etcdError, GRPC } from './etcd-error.js'
import type { FaceContext } from './face.js'
import { Empty, type Member, MemberAddRequest, MemberAddResponse, MemberRequest, MembersResponse } from './messages.js'
import type { Out } from './protobuf.js'
import { type CallContext, type Methods, unary } from './rpc.js'

/** Members here have no address of their own: the bus carries everything between them. What `peerURLs` says is a name. */
const PEER_PORT = 2380

export function clusterMethods(face: FaceContext): Methods {
  const { store } = face

  const named = async (request: { id: bigint }, call: CallContext): Promise<MemberInfo> => {
    const { members } = await membersOf(face, call)
    const member = members.find(({ name }) => face.ids.member(name) === request.id)
    if (!member) throw etcdError('MEMBER_NOT_FOUND')
    return member
  }
  const answer = (reply: MembersReply) => ({ header: face.header(reply.header), members: reply.members.map(show) })
  const show = ({ name, learner }: MemberInfo): Out<typeof Member> => ({
    id: face.ids.member(name),
    name,
    peerUrls: [`http://${name}:${PEER_PORT}`],
    clientUrls: face.options.clientUrls[name] ?? [],
    isLearner: learner,
  })

  return {
    '/etcdserverpb.Cluster/MemberList': unary(Empty, MembersResponse, async (_, call) =>
      answer(await membersOf(face, call)),
    ),

    '/etcdserverpb.Cluster/MemberAdd': unary(MemberAddRequest, MemberAddResponse, async (request, call) => {
      const member = nameIn(request.peerUrls)
      const options = { ...face.ask(call), first: 'leader' } as const
      const reply = (await store.ask('memberAdd', { member, learner: request.isLearner }, options)) as MembersReply
      const added = reply.members.find(({ name }) => name === member) ?? { name: member, learner: request.isLearner }
      return { ...answer(reply), member: show(added) }
    }),

    '/etcdserverpb.Cluster/MemberRemove': unary(MemberRequest, MembersResponse, async (request, call) => {
      const { name } = await named(request, call)
      const options = { ...face.ask(call), first: 'leader' } as const
      return answer((await store.ask('memberRemove', { member: name }, options)) as MembersReply)
    }),

    '/etcdserverpb.Cluster/MemberPromote': unary(MemberRequest, MembersResponse, async (request, call) => {
      const { name, learner } = await named(request, call)
      if (!learner) throw etcdError('MEMBER_NOT_LEARNER')
      const options = { ...face.ask(call), first: 'leader' } as const
      return answer((await store.ask('memberPromote', { member: name }, options)) as MembersReply)
    }),

    '/etcdserverpb.Cluster/MemberUpdate': unary(MemberRequest, MembersResponse, async (request, call) => {
      await named(request, call)
      throw new EtcdError(
        GRPC.UNIMPLEMENTED,
        'etcdserver: a member has no address that could be changed: members find each other by name over the bus',
      )
    }),
  }
}

/** @throws CallError */
export async function membersOf(
  face: FaceContext,
  call: Pick<CallContext, 'gone' | 'remainingMs'>,
): Promise<MembersReply> {
  try {
    return (await face.store.read('members', {}, face.ask(call))) as MembersReply
  } catch (error) {
    if (CallError.fromBus(error).code !== 'UNKNOWN_VERB') throw error
    // A store of an older version: its status names the members.
    const reply = (await face.store.read('status', {}, face.ask(call))) as StoreStatusReply
    return { header: reply.header, members: reply.members.map((name) => ({ name, learner: false })) }
  }
}

/** A request to add a member bears its peer URLs only: the host in the first one is its name.
 *  @throws EtcdError */
function nameIn(peerUrls: readonly string[]): string {
  const names = peerUrls.map((url) => /^https?:\/\/([^/:@?#]+):\d+$/.exec(url.trim())?.[1])
  const [name] = names
  if (name === undefined || names.includes(undefined)) throw etcdError('BAD_MEMBER_URLS')
  return name
}
