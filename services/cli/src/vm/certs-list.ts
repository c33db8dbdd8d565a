/** `capstan certs`: what a machine's certificates are and until when. */
import { X509Certificate } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { printTable } from '../console.js'
import { Places } from '../layout.js'
import { AUTHORITIES } from './authorities.js'
import { isDue } from './certificates.js'
import { existingMachine } from './machine-file.js'

export interface CertificateState {
  name: string
  subject: string
  issuer: string
  /** RFC 3339. */
  expires: string
  secondsLeft: number
  state: 'valid' | 'due' | 'expired'
}

/** In the order of their names. @throws UserError if the directory holds no machine */
export function certificateStates(data: string, nowMs: number): CertificateState[] {
  const places = new Places(data)
  const { settings } = existingMachine(places)
  const authorities: readonly string[] = AUTHORITIES
  return readdirSync(places.pki)
    .filter((file) => file.endsWith('.crt'))
    .sort()
    .map((file) => {
      const pem = readFileSync(join(places.pki, file), 'utf8')
      const { subject, issuer, validTo } = new X509Certificate(pem)
      const name = file.slice(0, -'.crt'.length)
      const leftMs = Date.parse(validTo) - nowMs
      // Authorities are not renewed.
      const due = !authorities.includes(name) && isDue(pem, settings, nowMs)
      return {
        name,
        subject: oneLine(subject),
        issuer: oneLine(issuer),
        expires: new Date(validTo).toISOString(),
        secondsLeft: Math.floor(leftMs / 1000),
        state: leftMs <= 0 ? 'expired' : due ? 'due' : 'valid',
      }
    })
}

const oneLine = (name: string) => name.split('\n').join(', ')

export function printCertificates(data: string, format: 'text' | 'json'): void {
  const states = certificateStates(data, Date.now())
  if (format === 'json') return void process.stdout.write(`${JSON.stringify(states, null, 2)}\n`)
  const rows = [
    ['CERTIFICATE', 'STATE', 'LEFT', 'EXPIRES', 'SUBJECT', 'SIGNED BY'],
    ...states.map((one) => [one.name, one.state, leftText(one.secondsLeft), one.expires, one.subject, one.issuer]),
  ]
  printTable(rows)
}

function leftText(seconds: number): string {
  if (seconds <= 0) return '-'
  if (seconds >= 2 * 86_400) return `${Math.floor(seconds / 86_400)}d`
  if (seconds >= 2 * 3600) return `${Math.floor(seconds / 3600)}h`
  return seconds >= 120 ? `${Math.floor(seconds / 60)}m` : `${seconds}s`
}
