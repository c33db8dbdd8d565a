import { resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { cordonCommand, drainCommand } from './drain.js'

const DATA_DIRECTORY = '/var/lib/capstan'

/** `300`, `300s`, `5m`, `1h` → ms. */
function duration(text: string): number {
  const [, count = '', unit = ''] = /^(\d{1,6})(s|m|h|)$/.exec(text) ?? []
  if (count === '') throw new InvalidArgumentError('not a time such as 90s, 5m or 1h')
  return Number(count) * { '': 1000, s: 1000, m: 60_000, h: 3_600_000 }[unit as '' | 's' | 'm' | 'h']
}

function seconds(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new InvalidArgumentError('not a whole number of seconds')
  return Number(text)
}

/** `node drain|cordon|uncordon`: what may be done on any machine that has an administrator's kubeconfig. */
export function addDrainCommands(program: Command): void {
  const node =
    program.commands.find((one) => one.name() === 'node') ??
    program.command('node').description('nodes on machines of their own')
  const add = (name: string, description: string) =>
    node
      .command(name)
      .description(description)
      .argument('<name>', 'the node')
      .option('--data <directory>', "a master's directory; its admin.conf is used", DATA_DIRECTORY)
      .option('--kubeconfig <file>', 'instead of that')
  const place = (options: { data: string; kubeconfig?: string }) => ({
    data: resolve(options.data),
    ...(options.kubeconfig === undefined ? {} : { kubeconfig: resolve(options.kubeconfig) }),
  })
  add('drain', 'evict the pods of a node, and let it take no more; before its machine is stopped or upgraded')
    .option('--timeout <time>', 'how long it may take', duration, 300_000)
    .option('--force', 'delete also pods that no controller would make anew', false)
    .option('--grace-period <seconds>', 'for containers to end; default: what each pod says', seconds)
    .action((name: string, options) =>
      drainCommand(
        {
          ...place(options),
          force: options.force,
          timeoutMs: options.timeout,
          ...(options.gracePeriod === undefined ? {} : { gracePeriodSeconds: options.gracePeriod }),
        },
        name,
      ),
    )
  add('cordon', 'let a node take no more pods').action((name: string, options) =>
    cordonCommand(place(options), name, true),
  )
  add('uncordon', 'let a node take pods again').action((name: string, options) =>
    cordonCommand(place(options), name, false),
  )
}
