/** `capstan token list` and `capstan token delete`. */
import { printTable, Progress, UserError } from '../console.js'
import { asAdmin } from './admin-access.js'
import { deleteToken, type JoinToken, listTokens, tokenText } from './join-tokens.js'

export async function printTokens(data: string, format: 'text' | 'json'): Promise<void> {
  const tokens = await asAdmin(data, ({ client }) => listTokens(client))
  if (format === 'json') {
    const shown = tokens.map(({ id, role, usesLeft, description, expiresMs }) => ({
      id,
      role,
      usesLeft,
      description,
      expires: timeOf(expiresMs),
    }))
    return void process.stdout.write(`${JSON.stringify(shown, null, 2)}\n`)
  }
  if (tokens.length === 0) return void process.stdout.write('no tokens\n')
  printTable([
    ['TOKEN', 'ROLE', 'EXPIRES', 'USES LEFT', 'DESCRIPTION'],
    ...tokens.map((token) => [
      tokenText(token),
      token.role,
      stateOf(token, Date.now()),
      String(token.usesLeft ?? 'any'),
      token.description ?? '',
    ]),
  ])
}

export async function removeToken(data: string, text: string): Promise<void> {
  if (!/^[a-z0-9]{6}(\.[a-z0-9]{16})?$/.test(text))
    throw new UserError(`"${text}" is no token, nor its first six characters`)
  if (!(await asAdmin(data, ({ client }) => deleteToken(client, text))))
    throw new UserError(`there is no token ${text.slice(0, 6)}; capstan token list shows those that there are`)
  new Progress().done(`token ${text.slice(0, 6)} is deleted`)
}

const timeOf = (ms: number | undefined) => (ms === undefined ? null : new Date(ms).toISOString())

const stateOf = ({ expiresMs }: JoinToken, nowMs: number) =>
  expiresMs !== undefined && expiresMs <= nowMs ? 'expired' : (timeOf(expiresMs) ?? 'never')
