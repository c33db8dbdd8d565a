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
  // Quoted as JSON: YAML takes bare words like `yes` or `1e3` for something else.
  const quote = (name: string) => JSON.stringify(name)
  const [cluster, user, context] = [
    quote(options.cluster),
    quote(options.user),
    quote(`${options.user}@${options.cluster}`),
  ]
  return `apiVersion: v1
kind: Config
clusters:
- name: ${cluster}
  cluster:
    server: ${quote(options.server)}
    certificate-authority-data: ${base64(options.ca)}
users:
- name: ${user}
  user:
    client-certificate-data: ${base64(options.client.cert)}
    client-key-data: ${base64(options.client.key)}
contexts:
- name: ${context}
  context:
    cluster: ${cluster}
    user: ${user}
current-context: ${context}
`
}
