import { CallError } from '@capstan/actor'
import type { CompactReply, RangeReply, Txn, TxnReply } from '@capstan/protocol'
import { etcdError } from './etcd-error.js'
import type { FaceContext } from './face.js'
import { checkSize, fromDelete, fromPut, fromRange, fromTxn, keepsOld, toDelete, toPut, toRange, toTxn } from './kv.js'
import {
  CompactionRequest,
  DeleteRangeRequest,
  DeleteRangeResponse,
  HeaderOnly,
  PutRequest,
  PutResponse,
  RangeRequest,
  RangeResponse,
  TxnRequest,
  type TxnRequestIn,
  TxnResponse,
} from './messages.js'
import { type CallContext, type Methods, unary } from './rpc.js'

export function kvMethods(face: FaceContext): Methods {
  const { store, options } = face

  async function txn(request: Txn, call: CallContext): Promise<TxnReply> {
    try {
      return await store.txn(request, face.ask(call))
    } catch (error) {
      const { code, outcome } = CallError.fromBus(error)
      if (code === 'BAD_REQUEST' && outcome === 'not-applied') {
        if (keepsOld(request.success) || keepsOld(request.failure)) throw etcdError('KEY_NOT_FOUND', error)
      }
      throw error
    }
  }

  return {
    '/etcdserverpb.KV/Range': unary(RangeRequest, RangeResponse, async (request, call) => {
      const reply = (await store.read('range', toRange(request), face.ask(call))) as RangeReply
      return fromRange(request, reply, face.header(reply.header))
    }),

    '/etcdserverpb.KV/Put': unary(PutRequest, PutResponse, async (request, call) => {
      const put = toPut(request)
      checkSize(call.bytes, options.requestBytesMax)
      const reply = await txn({ compare: [], success: [put], failure: [] }, call)
      return fromPut(reply, face.header(reply.header))
    }),

    '/etcdserverpb.KV/DeleteRange': unary(DeleteRangeRequest, DeleteRangeResponse, async (request, call) => {
      const deletion = toDelete(request)
      checkSize(call.bytes, options.requestBytesMax)
      const reply = await txn({ compare: [], success: [deletion], failure: [] }, call)
      return fromDelete(reply, face.header(reply.header))
    }),

    '/etcdserverpb.KV/Txn': unary(TxnRequest, TxnResponse, async (message, call) => {
      const request = message as unknown as TxnRequestIn
      const wanted = toTxn(request, options.txnOpsMax)
      checkSize(call.bytes, options.requestBytesMax)
      const reply = await txn(wanted, call)
      return fromTxn(request, reply, face.header(reply.header)) as Record<string, object>
    }),

    '/etcdserverpb.KV/Compact': unary(CompactionRequest, HeaderOnly, async (request, call) => {
      // A store that was never compacted is so up to nothing.
      if (request.revision <= 0) throw etcdError('COMPACTED')
      const body = { revision: request.revision }
      const reply = (await store.ask('compact', body, { ...face.ask(call), first: 'leader' })) as CompactReply
      return { header: face.header(reply.header) }
    }),
  }
}
