import type { HistoryEvent } from '../checkers/history.js'

/**
 * All that happened in a range, as several watchers tell it together: what one of them has not seen, another has. Where two
 * tell different things of one change, that is said in `wrong`.
 */
export function joinTellings(tellings: readonly { teller: string; events: readonly HistoryEvent[] }[]): {
  events: HistoryEvent[]
  wrong: string[]
} {
  const found = new Map<string, { teller: string; event: HistoryEvent }>()
  const wrong: string[] = []
  for (const { teller, events } of tellings)
    for (const event of events) {
      const id = `${event.revision} ${event.key}`
      const before = found.get(id)
      if (!before) found.set(id, { teller, event })
      else if (before.event.type !== event.type || before.event.value !== event.value)
        wrong.push(
          `of revision ${event.revision} ${before.teller} tells ${show(before.event)}, ${teller} ${show(event)}`,
        )
    }
  const events = [...found.values()].map(({ event }) => event)
  events.sort((a, b) => a.revision - b.revision || (a.key < b.key ? -1 : 1))
  return { events, wrong }
}

const show = (event: HistoryEvent) => `${event.type} ${event.key} ${event.value}`
