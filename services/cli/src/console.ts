import pc from 'picocolors'

/** Progress for people, on stderr: stdout is for what a command was asked for. */
export class Progress {
  private readonly startedMs = performance.now()

  step(text: string): void {
    process.stderr.write(`${pc.dim(`${this.seconds().padStart(6)}s`)}  ${text}\n`)
  }

  warn(text: string): void {
    process.stderr.write(`${pc.dim(`${this.seconds().padStart(6)}s`)}  ${pc.yellow('note:')} ${text}\n`)
  }

  done(text: string): void {
    process.stderr.write(`${pc.dim(`${this.seconds().padStart(6)}s`)}  ${pc.green('✔')} ${text}\n`)
  }

  private seconds(): string {
    return ((performance.now() - this.startedMs) / 1000).toFixed(1)
  }
}

/** On stdout, the first row as a heading. */
export function printTable(rows: readonly (readonly string[])[]): void {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  for (const row of rows) {
    const line = row.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join('   ')
    process.stdout.write(`${line.trimEnd()}\n`)
  }
}

/** What a user did wrong or the host lacks: told without a stack trace, exit code 1. */
export class UserError extends Error {
  override readonly name = 'UserError'
}
