export { type ActorOptions, type ActorRef, type Answer, type Behaviour, spawn } from './actor.js'
export { CodecError, decode, encode } from './codec.js'
export { CallError, type ErrorData, errorData, type Outcome } from './errors.js'
export { every, sleep } from './time.js'
export {
  type CallOptions,
  Caller,
  type IncomingCall,
  type InStream,
  type OutStream,
  type OutStreamOptions,
  sendToAll,
  serve,
  type ServeOptions,
  type Server,
  type StreamHandlers,
  WIRE_VERSION,
} from './wire.js'
export {
  type Bus,
  BusError,
  type BusErrorCode,
  type BusMessage,
  type Clock,
  type Disk,
  DiskError,
  type DiskErrorCode,
  type DiskFile,
  type Log,
  type Random,
  type Subscription,
  type Timer,
  type World,
} from './world.js'
