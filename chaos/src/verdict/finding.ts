import type { PromiseState } from '../harness/types.js'

/** What one checker found of one promise. */
export interface Finding {
  promise: string
  state: Exclude<PromiseState, 'not tested'>
  /** Of `ok`: what was looked at, with figures. */
  text: string
  evidence: string[]
}

export const EVIDENCE_MAX = 12
const LINE_MAX = 400

/** `wrong` empty: it held for what `looked` says. Else the first of it, and as many lines of evidence as one reads. */
export function finding(promise: string, looked: string, wrong: readonly string[], evidence?: string[]): Finding {
  if (wrong.length === 0) return { promise, state: 'ok', text: looked, evidence: [] }
  const more = wrong.length > 1 ? ` (and ${wrong.length - 1} more)` : ''
  const lines = (evidence ?? [...wrong]).slice(0, EVIDENCE_MAX).map(cut)
  return { promise, state: 'violated', text: cut(`${wrong[0]}${more}`), evidence: lines }
}

const cut = (text: string) => (text.length > LINE_MAX ? `${text.slice(0, LINE_MAX)} …` : text)
