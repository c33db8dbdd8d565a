import { get } from 'node:http'
import type { Access } from '../../harness/types.js'
import type { Connections } from '../ports.js'
import { EtcdStorePort } from './etcd-store-port.js'
import { HttpsApiPort } from './https-api-port.js'

/** The real ways to a cluster: the etcd face of each member, HTTPS to each API server. */
export function connectTo(access: Access): Connections {
  const { etcdCredentials } = access
  return {
    stores: etcdCredentials
      ? access.etcdEndpoints.map((endpoint) => ({
          member: endpoint.member,
          open: () => new EtcdStorePort(endpoint, etcdCredentials),
        }))
      : [],
    apis: access.apiEndpoints.map((endpoint) => ({
      endpoint: endpoint.name,
      open: () => new HttpsApiPort(endpoint, access.apiCredentials),
    })),
    get: isAnswered,
  }
}

function isAnswered(url: string, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    // From the first byte sent to the last one received, the connection included.
    const signal = AbortSignal.timeout(timeoutMs)
    const request = get(url, { agent: false, signal }, (response) => {
      response.on('end', () => resolve(response.statusCode !== undefined && response.statusCode < 300))
      response.on('error', () => resolve(false))
      response.resume()
    })
    request.on('error', () => resolve(false))
  })
}
