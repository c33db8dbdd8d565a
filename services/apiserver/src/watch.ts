import type { ApiEventType, ApiWatchData } from '@capstan/protocol'
import { every, type World } from '@capstan/actor'
import type { Change, ResourceCache, Watcher } from './cache.js'
import { failure } from './errors.js'
import type { OpenWatch, WatchSink } from './options.js'
import type { Stored } from './stored.js'

export const BOOKMARK_PERIOD_MS = 60_000
/** Objects in one message of the initial state. */
const INITIAL_CHUNK = 500
/** Kubernetes ends watches after 30 to 60 minutes, so that clients spread over the servers anew. */
const TIMEOUT_MS_MIN = 30 * 60_000

export const INITIAL_EVENTS_END = 'k8s.io/initial-events-end'

export interface WatchOptions {
  /** Which objects the client sees. */
  matches(object: Stored): boolean
  /** An object's bytes in the client's media type. */
  render(object: Stored): Uint8Array
  bookmark(revision: number, annotations?: Record<string, string>): Uint8Array
  bookmarks: boolean
  /** Send the present state first. With `initialEnd`, then a bookmark that says so. */
  initial?: { objects: Iterable<Stored>; initialEnd: boolean }
  /** Changes to send first: those after the client's revision. */
  past: readonly Change[]
  /** Where the client stands. */
  startRevision: number
  timeoutSeconds?: number
}

/** Follows one resource for one client. Call it in the same turn in which `past` and `initial` were read. */
export function followResource(
  world: World,
  cache: ResourceCache,
  /** Of the cache, always. */
  revisionOf: () => number,
  options: WatchOptions,
  sink: WatchSink,
): OpenWatch {
  const revisionNow = revisionOf()
  let sent = options.startRevision
  let ended = false
  const stops: (() => void)[] = []

  const watcher: Watcher = {
    changed(changes, revision) {
      deliver(changes, revision)
    },
    lost() {
      end('lost', failure(410, 'Expired', 'the server lost track of changes; list again'))
    },
  }
  const handle: OpenWatch = {
    // Changes are delivered in the same turn in which the cache takes them.
    position: revisionOf,
    stop: () => end('cancelled'),
  }

  if (options.initial) {
    // Revision 0 until the last chunk: who loses the stream in between must begin anew.
    sent = 0
    let chunk: [ApiEventType, Uint8Array][] = []
    for (const stored of options.initial.objects) {
      if (!options.matches(stored)) continue
      if (chunk.length >= INITIAL_CHUNK) {
        if (!push({ prevRevision: 0, revision: 0, events: chunk })) return handle
        chunk = []
      }
      chunk.push(['ADDED', options.render(stored)])
    }
    if (options.initial.initialEnd)
      chunk.push(['BOOKMARK', options.bookmark(revisionNow, { [INITIAL_EVENTS_END]: 'true' })])
    if (!push({ prevRevision: 0, revision: revisionNow, events: chunk })) return handle
    sent = revisionNow
  } else {
    deliver(options.past, revisionNow)
  }
  if (ended) return handle
  cache.watchers.add(watcher)
  stops.push(() => cache.watchers.delete(watcher))
  if (options.bookmarks) stops.push(every(world.clock, BOOKMARK_PERIOD_MS, bookmark))
  const random = options.timeoutSeconds === undefined ? world.random.int(TIMEOUT_MS_MIN) : 0
  const timeoutMs = options.timeoutSeconds === undefined ? TIMEOUT_MS_MIN + random : options.timeoutSeconds * 1000
  const timer = world.clock.setTimer(timeoutMs, () => {
    if (options.bookmarks) bookmark()
    end('timeout')
  })
  stops.push(() => timer.cancel())
  return handle

  function deliver(changes: readonly Change[], revision: number): void {
    const events: [ApiEventType, Uint8Array][] = []
    for (const change of changes) {
      const event = eventOf(change, options)
      if (event) events.push(event)
    }
    if (events.length === 0) return
    push({ prevRevision: sent, revision, events })
    sent = revision
  }

  function bookmark(): void {
    const revision = Math.max(revisionOf(), sent)
    push({ prevRevision: sent, revision, events: [['BOOKMARK', options.bookmark(revision)]] })
    sent = revision
  }

  function push(data: ApiWatchData): boolean {
    if (ended) return false
    if (sink.send(data)) return true
    end('lagging')
    return false
  }

  function end(reason: string, status?: object): void {
    if (ended) return
    ended = true
    for (const stop of stops) stop()
    sink.end(reason, status)
  }
}

/** What a client with these selectors sees of a change; undefined: nothing. */
function eventOf(change: Change, options: WatchOptions): [ApiEventType, Uint8Array] | undefined {
  const was = change.previous !== undefined && options.matches(change.previous)
  const is = change.current !== undefined && options.matches(change.current)
  if (is && change.current) return [was ? 'MODIFIED' : 'ADDED', options.render(change.current)]
  if (!was || !change.previous) return undefined
  // Out of sight: the state that the client knew, as of the revision at which it went.
  return ['DELETED', options.render(change.gone ?? change.previous.at(change.revision))]
}
