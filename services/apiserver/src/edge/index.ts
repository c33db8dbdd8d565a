export { type HttpsListener, type HttpsOptions, listenHttps } from './https.js'
export { ISSUER, type TokenOptions, tokenSigner, tokenVerifier } from './tokens.js'
