export { createTestApi, type TestApi } from './test-api.js'
export { startTestStore, type TestStore } from './test-store.js'
