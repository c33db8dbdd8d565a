export {
  accountJwt,
  type BusAuthority,
  busAuthorityConfig,
  busCredentials,
  type BusPermissions,
  busServerConfig,
  type BusServerOptions,
  isBusUserKey,
  makeBusAuthority,
  makeBusKey,
  makeBusUser,
  makeSystemUser,
  revokeBusUser,
  signBusUser,
} from './bus-credentials.js'
export { kubeconfig } from './kubeconfig.js'
export {
  type CertificateAndKey,
  makeCa,
  makeCertificateRequest,
  makeClientCertificate,
  makeServerCertificate,
  makeSigningKeyPair,
  publicKeyHash,
  signCertificateRequest,
  type Validity,
} from './x509.js'
