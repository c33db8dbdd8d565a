import type { Log } from '@capstan/actor'
import { pino } from 'pino'

/** pino on a file descriptor; one JSON object a line. */
export function realLog(options: { name: string; level?: string; fd?: number }): Log {
  // `sync`: what was logged before a crash must be in the file.
  const destination = pino.destination({ fd: options.fd ?? 1, sync: true })
  return wrap(pino({ name: options.name, level: options.level ?? 'info', base: { name: options.name } }, destination))
}

function wrap(logger: import('pino').Logger): Log {
  return {
    debug: (fields, text) => logger.debug(fields, text),
    info: (fields, text) => logger.info(fields, text),
    warn: (fields, text) => logger.warn(fields, text),
    error: (fields, text) => logger.error(fields, text),
    child: (fields) => wrap(logger.child(fields)),
  }
}

/** Says nothing: for tests whose subject logs what they provoke. */
export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLog,
}
