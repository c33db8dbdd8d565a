import type { CertificateAndKey } from './x509.js'

/** Text of a kubeconfig with everything in it: cluster, CA, user and context. */
export function kubeconfig(options: {
  cluster: string
  server: string
  ca: string
  user: string
  client: CertificateAndKey
}): string {
  const base64 = (text: string) => Buffer.from(text, 'utf8').toString('base64')
  const { cluster, user } = options
  return `apiVersion: v1
kind: Config
clusters:
- name: ${cluster}
  cluster:
    server: ${options.server}
    certificate-authority-data: ${base64(options.ca)}
users:
- name: ${user}
  user:
    client-certificate-data: ${base64(options.client.cert)}
    client-key-data: ${base64(options.client.key)}
contexts:
- name: ${user}@${cluster}
  context:
    cluster: ${cluster}
    user: ${user}
current-context: ${user}@${cluster}
`
}
