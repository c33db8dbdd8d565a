import { publicKeyHash } from '@capstan/certs'
import { readFileSync } from 'node:fs'
import { asAdmin } from './admin-access.js'
import { createToken, tokenText } from './join-tokens.js'
import { machineFiles, type Role } from './machine-file.js'

/** `capstan token create`: the whole line by which a machine joins, with a new token in it. */
export function joinCommand(
  data: string,
  options: { role: Role; ttlMs: number | undefined; uses?: number; description?: string },
): Promise<string> {
  return asAdmin(data, async ({ client, machine, places }) => {
    const token = await createToken(client, options)
    const hash = publicKeyHash(readFileSync(machineFiles(places).ca, 'utf8'))
    const door = `${machine.address}:${machine.joinPort}`
    return `capstan ${options.role} join ${door} --token ${tokenText(token)} --ca-cert-hash ${hash} --address ADDRESS-OF-THE-NEW-MACHINE`
  })
}
