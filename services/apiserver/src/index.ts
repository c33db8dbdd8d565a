export { ApiError } from './errors.js'
export {
  ANONYMOUS,
  type ApiServerHandle,
  type ApiServerOptions,
  type ByteSink,
  type Media,
  type OpenWatch,
  type Page,
  type PlantedBug,
  type RequestExtras,
  type User,
  type WatchSink,
} from './options.js'
export { startApiServer } from './server.js'
