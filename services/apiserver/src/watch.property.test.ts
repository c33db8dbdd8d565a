import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { KubeObject } from '@capstan/api'
import fc from 'fast-check'
import type { ApiRequest } from '@capstan/protocol'
import type { ApiError } from './errors.js'
import type { User } from './options.js'
import { createTestApi } from './testing/index.js'

const ADMIN: User = { name: 'admin', groups: ['system:masters', 'system:authenticated'] }
const NAMES = ['a', 'b', 'c']
const SELECTORS = [{}, { labelSelector: 'x=1' }, { labelSelector: 'x!=1' }, { fieldSelector: 'metadata.name=a' }]

const step = fc.record({
  kind: fc.constantFrom('put', 'put', 'delete'),
  name: fc.constantFrom(...NAMES),
  x: fc.constantFrom('1', '2'),
})

// The dumb twin of a watch is a list: whoever applies all events to what it listed has what a list shows later.
test('a list and the events after it give the later list, for any selector and starting point (S3)', async () => {
  const api = await createTestApi()
  const server = api.api
  let round = 0
  try {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 25 }),
        fc.array(step, { minLength: 1, maxLength: 25 }),
        fc.constantFrom(...SELECTORS),
        async (before, after, selector) => {
          const namespace = `r${round++}`
          const body = { metadata: { name: namespace } }
          await server.handle('create', { group: '', version: 'v1', resource: 'namespaces', body }, ADMIN)
          const of = (more: Partial<ApiRequest>): ApiRequest => ({
            group: '',
            version: 'v1',
            resource: 'configmaps',
            namespace,
            ...more,
          })
          const list = async () => {
            const reply = await server.handle('list', of({ options: selector }), ADMIN)
            return JSON.parse(Buffer.from(reply.body).toString()) as {
              metadata: { resourceVersion: string }
              items: KubeObject[]
            }
          }
          const run = async ({ kind, name, x }: { kind: string; name: string; x: string }) => {
            const object = { metadata: { name, labels: { x } } }
            try {
              if (kind === 'delete') await server.handle('delete', of({ name }), ADMIN)
              else
                await server
                  .handle('create', of({ body: object }), ADMIN)
                  .catch(() => server.handle('patch', of({ name, body: object, patchType: 'merge' }), ADMIN))
            } catch (error) {
              assert.equal((error as ApiError).code, 'NotFound')
            }
          }
          for (const one of before) await run(one)
          const first = await list()
          for (const one of after) await run(one)
          const last = await list()

          const state = new Map(first.items.map((item) => [item.metadata.name, item]))
          let revision = Number(first.metadata.resourceVersion)
          const watch = await server.watch(
            of({ options: { ...selector, resourceVersion: first.metadata.resourceVersion } }),
            ADMIN,
            {
              send({ prevRevision, revision: upTo, events }) {
                assert.equal(prevRevision, revision)
                revision = upTo
                for (const [type, bytes] of events) {
                  const object = JSON.parse(Buffer.from(bytes).toString()) as KubeObject
                  const { name } = object.metadata
                  assert.equal(state.has(name), type !== 'ADDED', `${type} ${name}`)
                  if (type === 'DELETED') state.delete(name)
                  else state.set(name, object)
                }
                return true
              },
              end: () => undefined,
            },
          )
          watch.stop()
          const byName = (items: Iterable<KubeObject>) =>
            [...items].toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))
          assert.deepEqual(byName(state.values()), byName(last.items))
        },
      ),
      { numRuns: 60 },
    )
  } finally {
    await api.stop()
  }
})
