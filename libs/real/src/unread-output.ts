/**
 * Whoever reads what this process prints may have had enough of it (`capstan status | grep -q ready`): what is under way
 * goes on all the same, unread, and ends as it would have. Without this Node ends the process with a stack trace. For programs
 * that people call, once, before they print.
 */
export function goOnUnread(): void {
  for (const output of [process.stdout, process.stderr])
    output.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error
    })
}
