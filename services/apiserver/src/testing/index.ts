export { createTestApi, startTestApi, type TestApi } from './test-api.js'
export { startTestStore, type TestStore } from './test-store.js'
export { serveTestHttps, type TestHttps } from './test-https.js'
