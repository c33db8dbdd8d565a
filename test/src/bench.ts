/** `npm run bench -- NAME`: figures with the machine they were measured on. Not part of the tests. */
import { parseArgs } from 'node:util'
import { benchCalm } from './bench-calm.js'
import { benchFailover } from './bench-failover.js'
import { benchStart } from './bench-start.js'

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    kills: { type: 'string', default: '20' },
    'quiet-minutes': { type: 'string', default: '10' },
    runs: { type: 'string', default: '5' },
    minutes: { type: 'string', default: '10' },
    'idle-seconds': { type: 'string', default: '60' },
  },
})
switch (positionals[0]) {
  case 'start':
    await benchStart({ runs: Number(values.runs), idleSeconds: Number(values['idle-seconds']) })
    break
  case 'failover':
    await benchFailover({ kills: Number(values.kills), quietMinutes: Number(values['quiet-minutes']) })
    break
  case 'calm':
    await benchCalm({ minutes: Number(values.minutes) })
    break
  default:
    console.error('benchmarks: start, failover, calm')
    process.exitCode = 1
}
