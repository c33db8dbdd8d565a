export { type StatusCause } from './causes.js'
export { type Column, type Kind } from './kind.js'
export { type Ipv4Network, isIPv4, networksOverlap, networkWithin, parseIpv4Network } from './ip.js'
export { type Json, type KubeObject, type ObjectMeta, type OwnerReference, sameJson } from './kube-object.js'
export { qosClass } from './kinds/pod.js'
export {
  configKey,
  dns1035Label,
  dns1123Label,
  dns1123Subdomain,
  envName,
  labelValue,
  portName,
  portNumber,
  qualifiedName,
} from './names.js'
export { openApiDocument, openApiPath } from './openapi.js'
export { jsonPatch, mergePatch, PatchError, strategicMergePatch } from './patch.js'
export { parseQuantity, Quantity, QuantityError } from './quantity.js'
export { findByKind, findKind, KINDS } from './registry.js'
export {
  type FieldRequirement,
  type LabelMatcher,
  labelSelectorMatcher,
  parseFieldSelector,
  parseLabelSelector,
  SelectorError,
} from './selectors.js'
export { formatAge, formatDuration, formatMicroTime, formatTime } from './time.js'
