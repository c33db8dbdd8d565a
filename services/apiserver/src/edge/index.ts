export { type HttpsListener, type HttpsOptions, listenHttps } from './https.js'
