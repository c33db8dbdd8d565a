import { checkServerIdentity, type PeerCertificate } from 'node:tls'

/**
 * The library starts TLS on a socket without a host name, and Node then asks for a certificate of "localhost". Ask for one
 * of our servers instead: which of them it is matters less, they all are the cluster's.
 */
export function tlsOptions(ca: string, servers: readonly string[], own: { cert: string; key: string } | undefined) {
  return {
    ca,
    ...(own ? { certFile: own.cert, keyFile: own.key } : {}),
    checkServerIdentity(_host: string, certificate: PeerCertificate): Error | undefined {
      const hosts = servers.map((server) => new URL(`nats://${server}`).hostname.replace(/^\[|\]$/g, ''))
      const complaints = hosts.map((host) => checkServerIdentity(host, certificate))
      return complaints.includes(undefined) ? undefined : complaints[0]
    },
  }
}
