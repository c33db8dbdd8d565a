/** The process of a machine on a host of its own: `programs/run-machine.js DATA`. See `serve.ts`. */
import { serve } from './serve.js'

const [data = ''] = process.argv.slice(2)
try {
  await serve(data)
} catch (error) {
  console.error(error)
  process.exit(1)
}
