/** Figures and words as the reports write them. */

export const escape = (text: string): string =>
  text.replace(
    /[&<>"']/g,
    (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[c] as string,
  )

/** `340 ms`, `2.31 s`, `48 s`, `3 min 5 s`, `1 h 2 min`. */
export function duration(ms: number | undefined): string {
  if (ms === undefined) return '–'
  if (ms < 1) return ms <= 0 ? '0' : `${ms.toFixed(1)} ms`
  if (ms < 999.5) return `${Math.round(ms)} ms`
  if (ms < 9995) return `${(ms / 1000).toFixed(2)} s`
  if (ms < 99_950) return `${(ms / 1000).toFixed(1)} s`
  const seconds = Math.round(ms / 1000)
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60), seconds % 60]
  if (hours > 0) return `${hours} h${minutes > 0 ? ` ${minutes} min` : ''}`
  return `${minutes} min${rest > 0 ? ` ${rest} s` : ''}`
}

/** Of the run's own time: `12.3 s`, `4:05`, `1:02:03`. */
export function instant(ms: number): string {
  if (ms < 100_000) return `${(ms / 1000).toFixed(1)} s`
  return clockFace(ms)
}

export function clockFace(ms: number): string {
  const seconds = Math.round(ms / 1000)
  const two = (value: number) => String(value).padStart(2, '0')
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60]
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`
}

/** `12,345`; the page is written in English whatever the reader's locale. */
export const count = (value: number): string => String(Math.round(value)).replace(/\B(?=(\d{3})+(?!\d))/g, ',')

export const percent = (share: number): string =>
  share === 0 ? '0 %' : share < 0.0001 ? '< 0.01 %' : `${(share * 100).toFixed(share < 0.01 ? 2 : 1)} %`

export const bytes = (value: number): string => `${Math.round(value / 1024 / 1024)} MB`

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return Number.NaN
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2
}

/** `kill store of leader`: a fault as a schedule names it. */
export function faultName(fault: string, parameters: { [key: string]: unknown }): string {
  const { whom, component, from, ...rest } = parameters as { whom?: string; component?: string; from?: string }
  const of = component && component !== 'machine' ? ` ${component} of` : ''
  const towards = from === undefined ? '' : ` from ${from}`
  const figures = Object.entries(rest)
    .filter(([, value]) => typeof value === 'number' || typeof value === 'string')
    .map(([name, value]) => `${name} ${String(value)}`)
  return `${fault}${of}${whom === undefined ? '' : ` ${whom}`}${towards}${figures.length > 0 ? ` (${figures.join(', ')})` : ''}`
}
