export {
  type ApiClient,
  type DeleteCallOptions,
  type ObjectList,
  type ObjectRef,
  type Resource,
  RESOURCES,
  type WatchHandlers,
  type WriteOptions,
} from './api-client.js'
export { BeatTracker, startBeating } from './beat-tracker.js'
export { BusApiClient, type BusApiClientOptions } from './bus-api-client.js'
export {
  type Controller,
  type ControllerContext,
  type ControllerOptions,
  type ControllerWatch,
  startController,
  watchOf,
} from './controller.js'
export { type ClaimOptions, claimObjects, controllerOf, controllerRef, isControlledBy } from './controller-ref.js'
export { type EventObject, EventRecorder, type EventSubject } from './event-recorder.js'
export { Expectations } from './expectations.js'
export { fencedClient } from './fenced-client.js'
export { Informer, InformerFactory, type InformerHandlers, type InformerOptions, type Lister } from './informer.js'
export { byText, type KubeObject, objectKey, type ObjectMeta, type OwnerReference, splitKey } from './kube-object.js'
export { LeaderElector, type LeaderElectorOptions, type LockLease, microTime } from './leader-elector.js'
export { WorkQueue, type WorkQueueOptions } from './work-queue.js'
