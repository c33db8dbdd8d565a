export { ETCD_ERRORS, EtcdError, toEtcdError } from './etcd-error.js'
export { type EtcdFace, startEtcdFace } from './face.js'
export { idOf } from './ids.js'
export { ETCD_VERSION, type EtcdFaceOptions } from './options.js'
