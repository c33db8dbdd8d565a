/** Defaults of how soon a failure is noticed, where more than one component goes by them. Milliseconds. */

/** Between two heartbeats of a leader of the store (etcd: `--heartbeat-interval`). */
export const HEARTBEAT_MS = 50
/** A leader of the store that was not heard for so long is replaced; the greatest draw is twice that (etcd: `--election-timeout`). */
export const ELECTION_TIMEOUT_MS = 300
/** A lock that was not renewed for so long may be taken (Kubernetes: `--leader-elect-lease-duration`). */
export const LOCK_LEASE_MS = 1400
