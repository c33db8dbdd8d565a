import type { Kinds } from './kinds.js'
import type { Page } from './options.js'

export interface PageContext {
  kinds: Kinds
  ready: boolean
  metrics(): Record<string, number>
}

export function pageOf(path: string, query: Readonly<Record<string, string>>, accept: string, context: PageContext): Page | undefined {
  void accept
  void query
  void context
  if (path === '/version') return { status: 200, mediaType: 'application/json', body: Buffer.from('{}') }
  return undefined
}
