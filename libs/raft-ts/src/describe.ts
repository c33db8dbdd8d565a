import type { LogEntry, RaftMessage, RaftStatus } from './types.js'

/** One line that a reviewer can read: for scripts and logs. */
export function describeMessage(m: RaftMessage): string {
  const head = `${m.from}->${m.to} ${m.type} term ${m.term}`
  switch (m.type) {
    case 'preVote':
    case 'vote':
      return `${head} last ${m.lastIndex}/${m.lastTerm}${m.transfer ? ' transfer' : ''}`
    case 'preVoteReply':
    case 'voteReply':
      return `${head} ${m.granted ? 'granted' : 'refused'}`
    case 'append':
      return `${head} prev ${m.prevIndex}/${m.prevTerm} commit ${m.commit} entries [${places(m.entries)}]`
    case 'appendReply':
      return m.success ? `${head} match ${m.index}` : `${head} refused ${m.index} hint ${m.hintIndex}/${m.hintTerm}`
    case 'heartbeat':
      return `${head} commit ${m.commit} round ${m.round}`
    case 'heartbeatReply':
      return `${head} round ${m.round} last ${m.lastIndex}`
    case 'snapshot':
      return `${head} ${m.meta.index}/${m.meta.term} offset ${m.offset} bytes ${m.data.length}${m.done ? ' done' : ''}`
    case 'snapshotReply':
      return `${head} ${m.index} received ${m.received}${m.installed ? ' installed' : ''}`
    case 'readIndex':
      return `${head} context ${m.context}`
    case 'readIndexReply':
      return `${head} context ${m.context} ${m.refused ? 'refused' : `index ${m.index}`}`
    default:
      return head
  }
}

export function describeStatus(s: RaftStatus): string {
  const log = `log [${s.firstIndex}..${s.lastIndex}] stable ${s.stableIndex} commit ${s.commit} applied ${s.applied}`
  return `${s.member} ${s.role} term ${s.term} leader ${s.leader ?? '-'} ${log}${s.mayVote ? '' : ' may not vote'}`
}

const places = (entries: readonly LogEntry[]) => entries.map((e) => `${e.index}/${e.term}`).join(' ')
