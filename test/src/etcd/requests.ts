/**
 * The requests that are put to both stores in this order, from empty on. Strings are latin1 for bytes.
 */
export type Request = [path: string, request?: object]

const b = (text: string): Buffer => Buffer.from(text, 'latin1')
// Left out where there is none: etcd takes an empty one that is sent for "to the end", in reads but not in writes.
const to = (end: string) => (end === '' ? {} : { range_end: b(end) })
const put = (key: string, value: string, more: object = {}): Request => [
  'KV/Put',
  { key: b(key), value: b(value), ...more },
]
const range = (key: string, end = '', more: object = {}): Request => ['KV/Range', { key: b(key), ...to(end), ...more }]
const del = (key: string, end = '', more: object = {}): Request => [
  'KV/DeleteRange',
  { key: b(key), ...to(end), ...more },
]
const putOp = (key: string, value = '', more: object = {}) => ({
  request_put: { key: b(key), value: b(value), ...more },
})
const rangeOp = (key: string, end = '', more: object = {}) => ({
  request_range: { key: b(key), ...to(end), ...more },
})
const delOp = (key: string, end = '', more: object = {}) => ({
  request_delete_range: { key: b(key), ...to(end), ...more },
})
const txnOp = (success: object[], failure: object[] = [], compare: object[] = []) => ({
  request_txn: { compare, success, failure },
})
const txn = (success: object[], failure: object[] = [], compare: object[] = []): Request => [
  'KV/Txn',
  { compare, success, failure },
]
const is = (key: string, more: object) => ({ key: b(key), ...more })
const many = (count: number, make: (at: number) => object) => Array.from({ length: count }, (_, at) => make(at))

const ALL = ['\0', '\0'] as const

export const REQUESTS: Request[] = [
  // An empty store.
  range(...ALL),
  del('none'),
  del(...ALL, { prev_kv: true }),
  range('none', '', { revision: 1 }),
  range('none', '', { revision: 2 }),
  ['Lease/LeaseLeases'],

  // Put and its options.
  put('a', '1'),
  put('a', '2', { prev_kv: true }),
  put('a', '', { ignore_value: true }),
  put('a', '', { ignore_value: true, prev_kv: true }),
  put('a', 'x', { ignore_value: true }),
  put('missing', '', { ignore_value: true }),
  put('missing', 'x', { ignore_lease: true }),
  put('a', 'x', { ignore_lease: true, lease: 5 }),
  put('', 'x'),
  put('a', '3', { lease: 77 }),
  put('a', '3', { lease: '9223372036854775807' }),
  put('a', '3', { lease: -1 }),
  put('\0', 'zero'),
  put('\xff\xfe', '\0\xff'),
  put('empty', ''),
  put('c', '1'),
  put('b', '9'),
  put('ab', '5'),

  // Range.
  range(''),
  range('', '\0'),
  range(...ALL),
  range('a', 'c'),
  range('c', 'a'),
  range('b', '\0'),
  range('a', '\0', { limit: 2 }),
  range('a', '\0', { limit: -1 }),
  range('a', '\0', { limit: 100, keys_only: true }),
  range('a', '\0', { count_only: true }),
  range('a', '\0', { count_only: true, limit: 1 }),
  range('a', '\0', { serializable: true }),
  range('a', '\0', { revision: 3 }),
  range('a', '\0', { revision: -3 }),
  range('a', '\0', { revision: 1_000_000 }),
  range('a', '\0', { revision: '9223372036854775807' }),
  ...['KEY', 'VERSION', 'CREATE', 'MOD', 'VALUE'].flatMap((sort_target) =>
    ['NONE', 'ASCEND', 'DESCEND'].flatMap((sort_order) =>
      [0, 2].map((limit) => range(...ALL, { sort_target, sort_order, limit })),
    ),
  ),
  range(...ALL, { sort_target: 'MOD', limit: 2, min_mod_revision: 3 }),
  range(...ALL, { min_mod_revision: 5 }),
  range(...ALL, { max_mod_revision: 5, limit: 1 }),
  range(...ALL, { min_create_revision: 6, max_create_revision: 8 }),
  range(...ALL, { max_mod_revision: -1 }),
  range(...ALL, { min_mod_revision: -1, min_create_revision: '9223372036854775807' }),
  range(...ALL, {
    max_create_revision: '9223372036854775807',
    keys_only: true,
    sort_target: 'VALUE',
    sort_order: 'DESCEND',
  }),

  // Delete.
  del(''),
  del('ab'),
  del('ab'),
  del('b', 'a'),
  del('b', 'd', { prev_kv: true }),
  put('b', 'again'),
  range('b'),

  // Transactions.
  txn([]),
  txn([putOp('t', '1'), rangeOp('t'), delOp('none'), rangeOp('t', '', { revision: 3 })]),
  txn([rangeOp('t'), rangeOp('a', '\0', { limit: 1 })]),
  txn([
    rangeOp('t'),
    delOp('none'),
    putOp('t2', 'x', { prev_kv: true }),
    delOp('b', '', { prev_kv: true }),
    rangeOp('b'),
  ]),
  txn([putOp('yes')], [putOp('no')], [is('t', { target: 'VALUE', result: 'EQUAL', value: b('1') })]),
  txn([putOp('yes')], [putOp('no')], [is('t', { target: 'VALUE', result: 'NOT_EQUAL', value: b('1') })]),
  txn([putOp('yes')], [putOp('no')], [is('none', { target: 'VALUE', result: 'NOT_EQUAL', value: b('1') })]),
  txn([putOp('yes')], [putOp('no')], [is('none', { target: 'VERSION', result: 'EQUAL', version: 0 })]),
  txn([putOp('yes')], [putOp('no')], [is('t', { target: 'VERSION', result: 'GREATER', version: 0 })]),
  txn(
    [putOp('yes')],
    [putOp('no')],
    [is('t', { target: 'CREATE', result: 'LESS', create_revision: '9223372036854775807' })],
  ),
  txn(
    [putOp('yes')],
    [putOp('no')],
    [is('t', { target: 'MOD', result: 'GREATER', mod_revision: '-9223372036854775808' })],
  ),
  txn([putOp('yes')], [putOp('no')], [is('t', { target: 'LEASE', result: 'EQUAL', lease: 0 })]),
  // An operand of another kind than the target: compared with zero.
  txn([putOp('yes')], [putOp('no')], [is('t', { target: 'MOD', result: 'EQUAL', version: 7 })]),
  txn([putOp('yes')], [putOp('no')], [is('t', { target: 'VALUE', result: 'GREATER' })]),
  txn(
    [putOp('yes')],
    [putOp('no')],
    [is('a', { range_end: b('z'), target: 'VERSION', result: 'GREATER', version: 0 })],
  ),
  txn([putOp('yes')], [putOp('no')], [is('x', { range_end: b('y'), target: 'VERSION', result: 'EQUAL', version: 0 })]),
  txn([], [], [is('', { target: 'MOD' })]),
  txn([
    txnOp(
      [putOp('n1', '1'), rangeOp('n1')],
      [putOp('n2')],
      [is('t', { target: 'VERSION', result: 'EQUAL', version: 1 })],
    ),
    rangeOp('n1'),
  ]),
  txn([txnOp([txnOp([rangeOp('t')]), delOp('n1')]), rangeOp('n1')]),
  txn([putOp('d1'), putOp('d1')]),
  txn([putOp('d1'), delOp('d1')]),
  txn([delOp('d0', 'd9'), putOp('d1')]),
  txn([delOp('d1'), delOp('d1')]),
  txn([putOp('d1'), txnOp([putOp('d1')])]),
  txn([txnOp([putOp('d1')], [putOp('d1')])]),
  txn([txnOp([putOp('d1')]), txnOp([putOp('d1')])]),
  txn([putOp('')]),
  txn([delOp('')]),
  txn([rangeOp('')]),
  txn([{}]),
  txn([txnOp([putOp('')])]),
  txn([putOp('x', 'x', { ignore_value: true })]),
  txn([putOp('x', '', { ignore_lease: true, lease: 5 })]),
  txn([putOp('not there', '', { ignore_value: true })]),
  txn([putOp('x1', '', { lease: 12345 })]),
  txn([rangeOp('a', '', { revision: 100_000 })]),
  txn([putOp('x2'), rangeOp('a', '', { revision: 100_000 })]),
  txn(many(128, (at) => putOp(`m${at}`))),
  txn(many(129, (at) => putOp(`m${at}`))),
  txn(
    [],
    many(129, () => rangeOp('a')),
  ),
  txn(
    [],
    [],
    many(129, () => is('a', { target: 'MOD' })),
  ),
  // What is nested has what is left of the bound.
  txn([txnOp(many(127, () => rangeOp('a', '', { count_only: true })))]),
  txn([txnOp(many(128, () => rangeOp('a')))]),
  del('m', 'n'),

  // Sizes.
  put('big', 'x'.repeat(1_500_000)),
  put('big', 'x'.repeat(1536 * 1024)),
  put('big', 'x'.repeat(1536 * 1024 - 200)),
  put('big', 'x'.repeat(1536 * 1024 - 20)),
  txn([putOp('big1', 'x'.repeat(800_000)), putOp('big2', 'x'.repeat(800_000))]),
  del('big'),

  // Leases.
  ['Lease/LeaseGrant', { ID: 7, TTL: 1000 }],
  ['Lease/LeaseGrant', { ID: 7, TTL: 1000 }],
  ['Lease/LeaseGrant', { ID: 8, TTL: '9000000001' }],
  ['Lease/LeaseGrant', { ID: 8, TTL: 9_000_000_000 }],
  put('l1', 'x', { lease: 7 }),
  put('l2', 'x', { lease: 7 }),
  put('l1', 'y', { ignore_lease: true }),
  range('l1'),
  put('l2', 'y'),
  range('l2'),
  put('l2', 'y', { lease: 8 }),
  txn([putOp('yes')], [putOp('no')], [is('l1', { target: 'LEASE', result: 'EQUAL', lease: 7 })]),
  ['Lease/LeaseLeases'],
  ['Lease/LeaseRevoke', { ID: 7 }],
  ['Lease/LeaseRevoke', { ID: 7 }],
  ['Lease/LeaseRevoke', { ID: '9223372036854775807' }],
  ['Lease/LeaseRevoke', {}],
  ['Lease/LeaseTimeToLive', { ID: 7 }],
  ['Lease/LeaseTimeToLive', { ID: '9223372036854775807', keys: true }],
  ['Lease/LeaseTimeToLive', {}],
  range('l1', 'l3'),
  ['Lease/LeaseRevoke', { ID: 8 }],
  ['Lease/LeaseLeases'],

  // Compaction.
  ['KV/Compact', { revision: 1_000_000 }],
  ['KV/Compact', { revision: -1 }],
  ['KV/Compact', { revision: 5 }],
  ['KV/Compact', { revision: 5 }],
  ['KV/Compact', { revision: 4 }],
  ['KV/Compact', { revision: 6, physical: true }],
  range('a', '', { revision: 5 }),
  range('a', '', { revision: 6 }),
  range('a', '', { revision: 1 }),
  txn([rangeOp('a', '', { revision: 2 })]),

  // Election and lock, where nobody waits.
  ['Lease/LeaseGrant', { ID: 100, TTL: 1000 }],
  ['Lease/LeaseGrant', { ID: 101, TTL: 1000 }],
  ['Election/Leader', { name: b('e') }],
  ['Election/Campaign', { name: b('e'), lease: 100, value: b('v1') }],
  ['Election/Campaign', { name: b('e'), lease: 100, value: b('v1') }],
  ['Election/Campaign', { name: b('e'), lease: 100, value: b('v2') }],
  ['Election/Campaign', { name: b('e'), lease: 999, value: b('v') }],
  ['Election/Leader', { name: b('e') }],
  ['Election/Proclaim', {}],
  ['Election/Proclaim', { leader: { name: b('e'), key: b('e/64'), rev: 3, lease: 100 }, value: b('v3') }],
  ['Election/Resign', {}],
  ['Election/Resign', { leader: { name: b('e'), key: b('e/64'), rev: 3, lease: 100 } }],
  ['Election/Leader', { name: b('e') }],
  ['Lock/Lock', { name: b('k'), lease: 100 }],
  ['Lock/Lock', { name: b('k'), lease: 100 }],
  ['Lock/Lock', { name: b('k'), lease: 998 }],
  range('k/', 'k0'),
  ['Lock/Unlock', { key: b('k/64') }],
  ['Lock/Unlock', { key: b('k/64') }],
  ['Lock/Unlock', {}],
  range('e', 'l'),
  ['Lease/LeaseRevoke', { ID: 100 }],

  // Users.
  ['Auth/AuthEnable'],
  ['Auth/Authenticate'],
  ['Auth/AuthDisable'],
  ['Auth/UserList'],
  ['Auth/RoleList'],
  ['Auth/UserGet'],
  ['Auth/RoleGet'],
  ['Auth/UserDelete'],
  ['Auth/RoleDelete'],
  ['Auth/UserGrantRole'],
  ['Auth/UserRevokeRole'],
  ['Auth/UserChangePassword'],
  ['Auth/RoleGrantPermission'],
  ['Auth/RoleRevokePermission'],

  // Members.
  ['Cluster/MemberRemove', { ID: 12345 }],
  ['Cluster/MemberPromote', { ID: 12345 }],
  ['Cluster/MemberUpdate', { ID: 12345, peerURLs: ['http://m9:2380'] }],
  ['Cluster/MemberAdd', { peerURLs: [] }],
  ['Cluster/MemberAdd', { peerURLs: ['nonsense'] }],
  ['Cluster/MemberAdd', { peerURLs: ['http://m9'] }],
  ['Cluster/MemberAdd', { peerURLs: ['http://m9:2380/path'] }],
  ['Cluster/MemberAdd', { peerURLs: ['ftp://m9:2380'] }],

  // Maintenance.
  ['Maintenance/Defragment'],
  ['Maintenance/Alarm', { action: 'GET' }],
  ['Maintenance/Alarm', { action: 'GET', alarm: 'NOSPACE' }],
  ['Maintenance/Alarm', { action: 'DEACTIVATE', alarm: 'NOSPACE', memberID: 12345 }],
  ['Maintenance/HashKV', { revision: 1_000_000 }],
  ['Maintenance/HashKV', { revision: 2 }],
  ['Maintenance/MoveLeader', { targetID: 12345 }],
]
