/** RFC 3339 with whole seconds, as metav1.Time. */
export const formatTime = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19)}Z`

/** RFC 3339 with microseconds, as metav1.MicroTime. */
export const formatMicroTime = (ms: number): string => `${new Date(ms).toISOString().slice(0, 23)}000Z`

/** How long ago, as kubectl prints it: `5s`, `2m30s`, `3h`, `4d`. */
export function formatAge(fromText: unknown, nowMs: number): string {
  const fromMs = typeof fromText === 'string' ? Date.parse(fromText) : Number.NaN
  return Number.isNaN(fromMs) ? '<unknown>' : formatDuration(nowMs - fromMs)
}

export function formatDuration(ms: number): string {
  const seconds = Math.floor(ms / 1000)
  if (seconds < -1) return '<invalid>'
  if (seconds < 0) return '0s'
  if (seconds < 120) return `${seconds}s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 10) return seconds % 60 === 0 ? `${minutes}m` : `${minutes}m${seconds % 60}s`
  if (minutes < 180) return `${minutes}m`
  const hours = Math.floor(minutes / 60)
  if (hours < 8) return minutes % 60 === 0 ? `${hours}h` : `${hours}h${minutes % 60}m`
  if (hours < 48) return `${hours}h`
  const days = Math.floor(hours / 24)
  if (days < 8) return hours % 24 === 0 ? `${days}d` : `${days}d${hours % 24}h`
  if (days < 730) return `${days}d`
  const years = Math.floor(days / 365)
  if (years < 8) return days % 365 === 0 ? `${years}y` : `${years}y${days % 365}d`
  return `${years}y`
}
