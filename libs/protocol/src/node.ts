/** `node.<name>.from.<identity>.<verb>`: what the API server asks of a node's kubelet. */
export type NodeVerb = 'logs'

/** Opens a stream of `NodeLogsData`; ends with reason `done`, or is refused with a Status in the CallError's details. */
export interface NodeLogsRequest {
  namespace: string
  pod: string
  uid: string
  container: string
  follow: boolean
  previous: boolean
  timestamps: boolean
  tailLines?: number
  limitBytes?: number
  sinceSeconds?: number
  /** RFC 3339. */
  sinceTime?: string
}

export interface NodeLogsData {
  bytes: Uint8Array
}
