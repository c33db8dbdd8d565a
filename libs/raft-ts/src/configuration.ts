import type { Configuration, MemberChange, MemberId } from './types.js'

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { fatal: true })

/** The payload of a `config` entry: JSON, so that anybody can read an old log. */
export function encodeConfiguration({ voters, learners, outgoing, learnersNext }: Configuration): Uint8Array {
  return encoder.encode(
    JSON.stringify({ voters, learners, ...(outgoing ? { outgoing } : {}), ...(learnersNext ? { learnersNext } : {}) }),
  )
}

/** What a `config` entry says. @throws RangeError: it is no configuration. */
export function decodeConfiguration(payload: Uint8Array): Configuration {
  let value: unknown
  try {
    value = JSON.parse(decoder.decode(payload))
  } catch (error) {
    throw new RangeError('a configuration is no JSON', { cause: error })
  }
  if (!isConfiguration(value)) throw new RangeError('a configuration is malformed')
  const { voters, learners, outgoing, learnersNext } = value
  return { voters, learners, ...(outgoing ? { outgoing } : {}), ...(learnersNext ? { learnersNext } : {}) }
}

export function isConfiguration(value: unknown): value is Configuration {
  if (typeof value !== 'object' || value === null) return false
  const { voters, learners, outgoing, learnersNext } = value as Record<string, unknown>
  return isNames(voters) && isNames(learners) && isNamesOrNone(outgoing) && isNamesOrNone(learnersNext)
}

export const isNames = (value: unknown): value is MemberId[] =>
  Array.isArray(value) && value.every((name) => typeof name === 'string')
const isNamesOrNone = (value: unknown): boolean => value === undefined || isNames(value)

export const isJoint = (configuration: Configuration): boolean => (configuration.outgoing?.length ?? 0) > 0

/**
 * What `changes`, all at once, make of a configuration that is not joint. Where more than one voter comes or goes, the
 * result is joint (thesis §4.3): decisions then need a majority of the old voters and one of the new ones, until
 * `leaveJoint`. Two majorities of configurations that differ in one voter meet anyway (§4.1).
 */
export function changeConfiguration(
  from: Configuration,
  changes: readonly MemberChange[],
): { configuration: Configuration } | { problem: string } {
  const voters = new Set(from.voters)
  const learners = new Set(from.learners)
  const touched = new Set<MemberId>()
  if (changes.length === 0) return { problem: 'there is nothing to change' }
  for (const { type, member } of changes) {
    if (typeof member !== 'string' || member === '') return { problem: 'a member has no name' }
    if (touched.has(member)) return { problem: `${member} is named twice` }
    touched.add(member)
    const known = voters.has(member) ? 'voter' : learners.has(member) ? 'learner' : undefined
    if (type === 'addLearner' || type === 'addVoter') {
      if (known) return { problem: `${member} is a ${known} already` }
      if (type === 'addVoter') voters.add(member)
      else learners.add(member)
    } else if (type === 'promote') {
      if (known !== 'learner') return { problem: `${member} is no learner` }
      learners.delete(member)
      voters.add(member)
    } else if (type === 'demote') {
      if (known !== 'voter') return { problem: `${member} is no voter` }
      voters.delete(member)
      learners.add(member)
    } else if (type === 'remove') {
      if (!known) return { problem: `${member} is no member` }
      voters.delete(member)
      learners.delete(member)
    } else return { problem: `unknown change ${String(type)}` }
  }
  if (voters.size === 0) return { problem: 'no voter would be left' }
  const gone = from.voters.filter((member) => !voters.has(member))
  const come = [...voters].filter((member) => !from.voters.includes(member))
  if (gone.length + come.length <= 1) return { configuration: { voters: [...voters], learners: [...learners] } }
  // Who still votes in the old half cannot be a learner yet.
  const next = [...learners].filter((member) => gone.includes(member))
  return {
    configuration: {
      voters: [...voters],
      learners: [...learners].filter((member) => !gone.includes(member)),
      outgoing: [...from.voters],
      ...(next.length > 0 ? { learnersNext: next } : {}),
    },
  }
}

/** The new half alone. */
export function leaveJoint({ voters, learners, learnersNext }: Configuration): Configuration {
  return { voters, learners: [...learners, ...(learnersNext ?? [])] }
}

/** `voters a b c learners d`, and while joint `outgoing …`. */
export function describeConfiguration({ voters, learners, outgoing, learnersNext }: Configuration): string {
  const part = (name: string, members: readonly MemberId[] | undefined) =>
    members && members.length > 0 ? ` ${name} ${members.join(' ')}` : ''
  return `voters ${voters.join(' ') || '-'}${part('learners', learners)}${part('outgoing', outgoing)}${part('learnersNext', learnersNext)}`
}
