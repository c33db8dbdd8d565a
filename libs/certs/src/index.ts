export {
  accountJwt,
  type BusAuthority,
  busAuthorityConfig,
  type BusPermissions,
  busServerConfig,
  type BusServerOptions,
  makeBusAuthority,
  makeBusUser,
  makeSystemUser,
  revokeBusUser,
} from './bus-credentials.js'
export { kubeconfig } from './kubeconfig.js'
export {
  type CertificateAndKey,
  makeCa,
  makeClientCertificate,
  makeServerCertificate,
  makeSigningKeyPair,
  type Validity,
} from './x509.js'
