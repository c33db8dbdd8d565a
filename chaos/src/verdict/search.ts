import { checkLinearizable, type Model, type Operation } from '../checkers/linearizability.js'
import { EVIDENCE_MAX, type Finding } from './finding.js'
import { shortest } from './shortest.js'

const SEARCH_STEPS_MAX = 500_000

/** A legal order for each object; the first illegal history is cut down to what shows it. */
export function search<S, I, O>(
  where: string,
  what: string,
  histories: ReadonlyMap<string, Operation<I, O>[]>,
  model: Model<S, I, O>,
  simplify: (history: readonly Operation<I, O>[]) => readonly Operation<I, O>[],
  needs: (operation: Operation<I, O>, history: readonly Operation<I, O>[]) => readonly Operation<I, O>[],
): Finding[] {
  let operations = 0
  for (const [key, history] of histories) {
    const simple = simplify(history)
    operations += history.length
    const verdict = checkLinearizable(simple, model, SEARCH_STEPS_MAX)
    if (verdict.verdict === 'unknown')
      return [{ promise: 'S2', state: 'unknown', text: `${where}: ${key}: ${verdict.explanation}`, evidence: [] }]
    if (verdict.verdict === 'ok') continue
    const isIllegal = (piece: readonly Operation<I, O>[]) =>
      checkLinearizable(piece, model, SEARCH_STEPS_MAX / 10).verdict === 'illegal'
    const piece = shortest(simple, isIllegal, needs)
    const lines = piece.map(describe)
    const text = `${where}: ${key} has no legal order; these ${piece.length} of ${history.length} operations show it`
    return [{ promise: 'S2', state: 'violated', text, evidence: shortened(lines) }]
  }
  const text = `${where}: ${operations} operations on ${histories.size} ${what} have a legal order`
  return [{ promise: 'S2', state: 'ok', text, evidence: [] }]
}

/** The end shows it best. */
function shortened(lines: string[]): string[] {
  if (lines.length <= EVIDENCE_MAX) return lines
  return [`(${lines.length - EVIDENCE_MAX + 1} before)`, ...lines.slice(1 - EVIDENCE_MAX)]
}

/** `8.120..8.131 s client-0: put value client-0#31 → written revision 91` */
function describe<I, O>({ client, input, output, invokedMs, returnedMs }: Operation<I, O>): string {
  const seconds = (ms: number | undefined) => (ms === undefined ? '?' : (ms / 1000).toFixed(3))
  const told = output === undefined ? 'may have happened' : words(output)
  return `${seconds(invokedMs)}..${seconds(returnedMs)} s ${client}: ${words(input)} → ${told}`
}

function words(object: unknown): string {
  return Object.entries(object as Record<string, unknown>)
    .map(([name, value]) =>
      name === 'type' ? String(value) : `${name} ${value === undefined ? 'none' : String(value)}`,
    )
    .join(' ')
}
