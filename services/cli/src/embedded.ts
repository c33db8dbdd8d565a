import { UserError, type Progress } from './console.js'
import type { Places, RuntimeKind } from './layout.js'
import type { UpOptions } from './up.js'

export async function runEmbedded(_options: UpOptions, _runtime: RuntimeKind, _places: Places, _progress: Progress): Promise<void> {
  throw new UserError('the in-process bus is not built into `up` yet: install nats-server')
}
