export { type HttpsListener, type HttpsOptions, listenHttps } from './https.js'
export { ISSUER, signServiceAccountToken, type TokenOptions, tokenVerifier } from './tokens.js'
