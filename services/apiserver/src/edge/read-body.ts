import type { IncomingMessage } from 'node:http'
import type { Http2ServerRequest } from 'node:http2'
import { parseDocument } from 'yaml'
import { badRequest, requestTimeout, tooLarge } from '../errors.js'
import { decodeProtobuf } from '../protobuf.js'

/** Kubernetes' bound for one request's body. */
export const BODY_BYTES_MAX = 3 * 1024 * 1024

/** A body that takes longer is given up. */
const BODY_MS = 60_000

/**
 * The whole body, or a refusal as soon as it is known to be too large. The rest is then not read: see `answerTooLarge`.
 * @throws ApiError 413, 408, 400 (the client went away)
 */
export function readBody(request: IncomingMessage | Http2ServerRequest): Promise<Buffer> {
  const stated = Number(request.headers['content-length'])
  const refusal = () => tooLarge(`Request entity too large: limit is ${BODY_BYTES_MAX}`)
  if (stated > BODY_BYTES_MAX) return Promise.reject(refusal())
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = []
    let bytes = 0
    const timer = setTimeout(() => {
      request.pause()
      reject(requestTimeout(`the body did not arrive within ${BODY_MS} ms`))
    }, BODY_MS)
    timer.unref()
    request.on('data', (piece: Buffer) => {
      bytes += piece.length
      if (bytes <= BODY_BYTES_MAX) {
        pieces.push(piece)
        return
      }
      pieces.length = 0
      request.pause()
      reject(refusal())
    })
    request.on('end', () => {
      clearTimeout(timer)
      resolve(Buffer.concat(pieces))
    })
    request.on('close', () => clearTimeout(timer))
    request.on('error', (error) => reject(badRequest(`the body could not be read: ${error.message}`)))
    request.on('aborted', () => reject(badRequest('the client went away')))
  })
}

/** @throws ApiError 400 with the position of what is wrong. */
export function parseBody(body: Buffer, format: 'json' | 'yaml' | 'protobuf'): unknown {
  if (body.length === 0) return undefined
  if (format === 'protobuf') return decodeProtobuf(body)
  const text = body.toString('utf8')
  if (format === 'json') {
    try {
      return JSON.parse(text)
    } catch (error) {
      throw badRequest(`the body is not valid JSON: ${(error as Error).message}`)
    }
  }
  let document: ReturnType<typeof parseDocument>
  try {
    // 1.1 is what Go's readers of YAML follow. Aliases are bounded: a few lines of them can mean gigabytes.
    document = parseDocument(text, { version: '1.1', prettyErrors: true })
    if (document.errors.length === 0) return document.toJS({ maxAliasCount: 100 })
  } catch (error) {
    throw badRequest(`the body is not valid YAML: ${(error as Error).message}`)
  }
  throw badRequest(`the body is not valid YAML: ${document.errors[0]?.message ?? 'unknown error'}`)
}
