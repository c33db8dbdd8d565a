import type { StoreStatusReply } from '@capstan/protocol'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'

/** etcd's own for its log syncs: 1 ms to 8 s. */
const SECONDS = Array.from({ length: 14 }, (_, at) => 0.001 * 2 ** at)

/**
 * What operators watch, in the names that they know from etcd where the meaning is the same. Sampled when somebody asks:
 * only syncs and checkpoints are noted as they happen.
 */
export class StoreMetrics {
  private readonly registry = new Registry()
  private readonly syncs = new Histogram({
    name: 'etcd_disk_wal_fsync_duration_seconds',
    help: 'The latency distributions of fsync of the log.',
    buckets: SECONDS,
    registers: [this.registry],
  })
  private readonly checkpoints = new Histogram({
    name: 'etcd_disk_backend_commit_duration_seconds',
    help: 'The latency distributions of checkpoints of the state.',
    buckets: SECONDS,
    registers: [this.registry],
  })
  private readonly gauges = new Map<string, Gauge>()
  private readonly counters = new Map<string, Counter>()

  syncTook(durationMs: number): void {
    this.syncs.observe(durationMs / 1000)
  }

  checkpointTook(durationMs: number): void {
    this.checkpoints.observe(durationMs / 1000)
  }

  /** In Prometheus' text format. */
  text(status: StoreStatusReply, quotaBytes: number): Promise<string> {
    const { counters, role, leader } = status
    this.gauge(
      'etcd_server_has_leader',
      'Whether or not a leader exists. 1 is existence, 0 is not.',
      +(leader !== undefined),
    )
    this.gauge(
      'etcd_server_is_leader',
      'Whether or not this member is a leader. 1 if is, 0 otherwise.',
      +(role === 'leader'),
    )
    this.gauge(
      'etcd_server_is_learner',
      'Whether or not this member is a learner. 1 if is, 0 otherwise.',
      +(role === 'learner'),
    )
    this.gauge('etcd_server_quota_backend_bytes', 'Current backend storage quota size in bytes.', quotaBytes)
    this.gauge('etcd_mvcc_db_total_size_in_bytes', 'Total size of the state in bytes.', status.dbSizeBytes)
    this.gauge('etcd_debugging_mvcc_current_revision', 'The current revision of store.', status.header.revision)
    this.gauge(
      'etcd_debugging_mvcc_compact_revision',
      'The revision of the last compaction in store.',
      status.compactRevision,
    )
    // etcd, too, has these two as gauges, whatever their names say: they are indexes.
    this.gauge('etcd_server_proposals_committed_total', 'Index of the last committed entry.', status.commitIndex)
    this.gauge('etcd_server_proposals_applied_total', 'Index of the last applied entry.', status.appliedIndex)
    for (const [name, [metric, help]] of Object.entries(GAUGES)) this.gauge(metric, help, counters[name] ?? 0)
    for (const [name, [metric, help]] of Object.entries(COUNTERS)) this.count(metric, help, counters[name] ?? 0)
    for (const [name, value] of Object.entries(counters))
      if (!(name in GAUGES) && !(name in COUNTERS))
        this.gauge(`capstan_store_${snake(name)}`, `${name} of this member, as its status tells.`, value)
    return this.registry.metrics()
  }

  private gauge(name: string, help: string, value: number): void {
    let gauge = this.gauges.get(name)
    if (!gauge) this.gauges.set(name, (gauge = new Gauge({ name, help, registers: [this.registry] })))
    gauge.set(value)
  }

  private count(name: string, help: string, value: number): void {
    let counter = this.counters.get(name)
    if (!counter) this.counters.set(name, (counter = new Counter({ name, help, registers: [this.registry] })))
    counter.reset()
    counter.inc(value)
  }
}

const GAUGES: Record<string, [name: string, help: string]> = {
  keys: ['etcd_debugging_mvcc_keys_total', 'Total number of keys.'],
  watches: ['etcd_debugging_mvcc_watcher_total', 'Total number of watchers.'],
  watchesBehind: ['etcd_debugging_mvcc_slow_watcher_total', 'Total number of unsynced slow watchers.'],
  proposalsPending: ['etcd_server_proposals_pending', 'The current number of pending proposals to commit.'],
}

const COUNTERS: Record<string, [name: string, help: string]> = {
  leaderChanges: ['etcd_server_leader_changes_seen_total', 'The number of leader changes seen.'],
  proposalsFailed: ['etcd_server_proposals_failed_total', 'The total number of failed proposals seen.'],
  readsFailed: ['etcd_server_read_indexes_failed_total', 'The total number of failed read indexes seen.'],
  leasesGranted: ['etcd_debugging_lease_granted_total', 'The total number of granted leases.'],
  leasesRevoked: ['etcd_debugging_lease_revoked_total', 'The total number of revoked leases.'],
  leasesRenewed: ['etcd_debugging_lease_renewed_total', 'The number of renewed leases seen by the leader.'],
  leasesExpired: ['etcd_debugging_server_lease_expired_total', 'The total number of expired leases.'],
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}
