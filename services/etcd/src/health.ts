import type { FaceContext } from './face.js'
import { HealthCheckRequest, HealthCheckResponse } from './messages.js'
import { type Methods, stream, unary } from './rpc.js'

const SERVING = 1

/** `grpc.health.v1`: as etcd, it says that the server serves; not whether the store has a quorum. */
export function healthMethods(_face: FaceContext): Methods {
  return {
    '/grpc.health.v1.Health/Check': unary(HealthCheckRequest, HealthCheckResponse, async () => ({ status: SERVING })),
    '/grpc.health.v1.Health/Watch': stream(HealthCheckRequest, HealthCheckResponse, (calls) => {
      calls.receive({
        request: () => calls.send({ status: SERVING }).catch((error: unknown) => calls.end(error)),
        done: () => undefined,
      })
    }),
  }
}
