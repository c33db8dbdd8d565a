import { UserError } from './console.js'
import { existingLayout } from './layout-file.js'
import { Places } from './layout.js'
import { killMachine, MACHINE_NAME_ERROR, machineKind, pauseMachine, resumeMachine, startMachine } from './machines.js'

/** `capstan machine kill|pause|resume|start NAME`. */
export async function machineCommand(data: string, action: string, name: string): Promise<void> {
  const places = new Places(data)
  const layout = existingLayout(places)
  if (machineKind(layout, name) === undefined) throw new UserError(MACHINE_NAME_ERROR(layout, name))
  if (layout.bus === 'memory')
    throw new UserError('with the in-process bus all machines are one process; machines need --bus nats')
  switch (action) {
    case 'kill':
      if (!(await killMachine(layout, places, name))) throw new UserError(`${name} does not end`)
      break
    case 'start':
      startMachine(layout, places, name)
      break
    case 'pause':
      if (!pauseMachine(layout, places, name)) throw new UserError(`${name} is down`)
      break
    case 'resume':
      if (!(await resumeMachine(layout, places, name))) throw new UserError(`${name} is down`)
      break
    default:
      throw new UserError(`unknown action "${action}"; actions: kill, pause, resume, start`)
  }
  process.stdout.write(`${name}: ${{ kill: 'killed', start: 'started', pause: 'paused', resume: 'resumed' }[action]}\n`)
}
