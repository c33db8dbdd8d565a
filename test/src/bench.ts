/** `npm run bench -- NAME`: figures with the machine they were measured on. Not part of the tests. */
import { parseArgs } from 'node:util'
import { benchCalm } from './bench-calm.js'
import { benchFailover } from './bench-failover.js'
import { benchStart } from './bench-start.js'
import { benchStore } from './bench-store.js'

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    kills: { type: 'string' },
    'quiet-minutes': { type: 'string', default: '10' },
    runs: { type: 'string' },
    minutes: { type: 'string', default: '10' },
    'idle-seconds': { type: 'string', default: '60' },
    // Of `store`: rows by name, separated by commas; keys of the large rows; client processes; where the data lies.
    rows: { type: 'string' },
    quick: { type: 'boolean', default: false },
    keys: { type: 'string' },
    clients: { type: 'string' },
    dir: { type: 'string' },
    output: { type: 'string', short: 'o' },
    file: { type: 'string' },
    // For profiling: only one side, and arguments of node for our members.
    side: { type: 'string' },
    // How clients come to our side: bus, or etcd for both sides over etcd v3 gRPC.
    over: { type: 'string', default: 'bus' },
    'store-arguments': { type: 'string' },
  },
})
switch (positionals[0]) {
  case 'start':
    await benchStart({ runs: Number(values.runs ?? 5), idleSeconds: Number(values['idle-seconds']) })
    break
  case 'failover':
    await benchFailover({ kills: Number(values.kills ?? 20), quietMinutes: Number(values['quiet-minutes']) })
    break
  case 'calm':
    await benchCalm({ minutes: Number(values.minutes) })
    break
  case 'store': {
    const { rows, runs, kills, keys, clients, dir, output, file, side } = values
    if (output !== undefined && output !== 'json') throw new Error(`-o ${output}: there is only json`)
    if (side !== undefined && side !== 'capstan' && side !== 'etcd') throw new Error(`--side ${side}: capstan or etcd`)
    const { over } = values
    if (over !== 'bus' && over !== 'etcd') throw new Error(`--over ${over}: bus or etcd`)
    const number = (text: string | undefined) => (text === undefined ? undefined : Number(text))
    await benchStore({
      quick: values.quick,
      rows: rows?.split(','),
      runs: number(runs),
      kills: number(kills),
      keys: number(keys),
      clients: number(clients),
      directory: dir,
      output,
      file,
      side,
      over,
      storeArguments: values['store-arguments']?.split(' '),
    })
    break
  }
  default:
    console.error('benchmarks: start, failover, calm, store')
    process.exitCode = 1
}
