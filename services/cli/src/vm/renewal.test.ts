/** Certificates of seconds, on a real master and a real node (`CAPSTAN_VM=1`, about 20 s). */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { connect } from 'node:tls'
import { UserError } from '../console.js'
import { IDENTITY_TIMES, Places, RECOVERY_TIMES } from '../layout.js'
import { waitFor } from '../process-file.js'
import { certificateStates } from './certs-list.js'
import { notAfterMs, readPair } from './certificates.js'
import { initMaster } from './init.js'
import { joinNode } from './join.js'
import { askDoor } from './join-client.js'
import { joinCommand } from './join-command.js'
import { leave, stopMachine } from './leave.js'
import { machineFiles, MASTER_PORTS } from './machine-file.js'
import { machineStatus } from './machine-status.js'
import { existingMachine } from './machine-file.js'
import { makeCertificateRequest } from '@capstan/certs'
import { startMachineProcess } from './machine-process.js'

const skip = process.env['CAPSTAN_VM'] ? false : 'long: CAPSTAN_VM=1'
const NET = `127.78.${process.pid % 250}`
const SECONDS = 12
const root = mkdtempSync(join(tmpdir(), 'renewal-'))
const [master, node] = [join(root, 'm'), join(root, 'n')]

after(async () => {
  for (const data of [node, master]) await leave(data).catch(() => undefined)
  rmSync(root, { recursive: true, force: true })
})

/** Until when the certificate is valid that a listener shows. */
const shown = (port: number): Promise<number> =>
  new Promise((resolve, reject) => {
    const socket = connect({ host: `${NET}.1`, port, rejectUnauthorized: false }, () => {
      resolve(Date.parse(socket.getPeerCertificate().valid_to))
      socket.destroy()
    })
    socket.on('error', reject)
  })

const enter = async (name: string) => {
  const command = await joinCommand(master, { role: 'node', ttlMs: 60_000 })
  const flag = (what: string) => new RegExp(`--${what} (\\S+)`).exec(command)?.[1] ?? ''
  await joinNode(`${NET}.1:9443`, {
    token: flag('token'),
    caCertHash: flag('ca-cert-hash'),
    address: `${NET}.2`,
    name,
    data: node,
    runtime: 'hollow',
    start: true,
  })
}

test('certificates are renewed while all goes on; one that expired is refused, and a token helps', {
  skip,
}, async () => {
  await initMaster({
    ...MASTER_PORTS,
    address: `${NET}.1`,
    name: 'm',
    data: master,
    podCidr: '10.244.0.0/16',
    serviceCidr: '10.96.0.0/16',
    certificateSeconds: SECONDS,
    tolerationSeconds: 2,
    identity: IDENTITY_TIMES,
    recovery: RECOVERY_TIMES,
    start: true,
  })
  await enter('n')
  const firstMs = notAfterMs(readPair(new Places(node), 'machine').cert)
  const ports = [MASTER_PORTS.apiPort, MASTER_PORTS.joinPort, MASTER_PORTS.etcdPort]
  const shownFirst = await Promise.all(ports.map(shown))

  // Past the life of everything that they began with.
  assert.ok(await waitFor(() => Date.now() > firstMs + 1000, SECONDS * 1000 + 5000, 200))
  assert.ok(notAfterMs(readPair(new Places(node), 'machine').cert) > Date.now(), "the node's own")
  const shownLater = await Promise.all(ports.map(shown))
  for (const [i, laterMs] of shownLater.entries()) assert.ok(laterMs > (shownFirst[i] ?? 0), `port ${ports[i]}`)
  const states = certificateStates(master, Date.now()).filter(({ state }) => state === 'expired')
  assert.deepEqual(states, [])
  const places = new Places(master)
  const { nodes } = await machineStatus(places, existingMachine(places))
  assert.deepEqual(
    nodes.map(({ name, ready }) => ({ name, ready })),
    [{ name: 'n', ready: true }],
  )

  await stopMachine(node)
  const old = readPair(new Places(node), 'machine')
  assert.ok(await waitFor(() => Date.now() > notAfterMs(old.cert) + 500, SECONDS * 1000 + 5000, 200))
  const { request } = await makeCertificateRequest()
  const ca = readFileSync(machineFiles(new Places(node)).ca, 'utf8')
  await assert.rejects(
    askDoor({ host: `${NET}.1`, port: MASTER_PORTS.joinPort }, '/v1/renew', { request }, { ca, ...old }),
    (error) => error instanceof UserError && /expired at .*join again with a token/.test(error.message),
  )
  startMachineProcess(new Places(node), existingMachine(new Places(node)))
  const log = new Places(node).log('n')
  const says = () => readFileSync(log, 'utf8').includes('the certificate of this machine expired')
  assert.ok(await waitFor(says, 10_000, 100), 'the node says why it stays away')
  await stopMachine(node)
  await enter('n')
})
