import type { HistoryEvent } from './history.js'

export const put = (
  key: string,
  value: string,
  revision: number,
  createRevision: number,
  version: number,
): HistoryEvent => ({ type: 'put', key, value, revision, createRevision, version, lease: 0 })

export const del = (key: string, revision: number): HistoryEvent => ({
  type: 'delete',
  key,
  value: '',
  revision,
  createRevision: 0,
  version: 0,
  lease: 0,
})
