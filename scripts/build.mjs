// npm run build: generates and compiles everything.
import { ensureBuilt } from './setup.mjs'

await ensureBuilt()
