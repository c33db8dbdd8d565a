import { spawnSync } from 'node:child_process'

/** Older ones do not speak exec and port-forward as the tests expect it, and word their errors otherwise. */
const MINOR_MIN = 31

/** What speaks against driving the tests by the kubectl of this machine; '': nothing. */
export function kubectlLack(): string {
  const { status, stdout } = spawnSync('kubectl', ['version', '--client', '-o', 'json'], { encoding: 'utf8' })
  if (status !== 0) return 'there is no kubectl on this machine'
  const { clientVersion } = JSON.parse(stdout) as { clientVersion?: { major?: string; minor?: string } }
  const minor = Number.parseInt(clientVersion?.minor ?? '', 10)
  if (clientVersion?.major === '1' && minor >= MINOR_MIN) return ''
  return `kubectl is ${clientVersion?.major}.${clientVersion?.minor}; the tests need 1.${MINOR_MIN} or newer`
}
