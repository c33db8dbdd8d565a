import { clockFace } from './text.js'

/** A position along the time line, 0 to 1000. */
export type X = (ms: number) => number

export const WIDTH = 1000

export function timeAxis(lastsMs: number): { x: X; ticks: { at: number; label: string }[] } {
  const x: X = (ms) => Math.round((Math.min(Math.max(0, ms), lastsMs) / lastsMs) * WIDTH * 100) / 100
  const stepMs =
    [1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000, 3_600_000].find(
      (step) => lastsMs / step <= 10,
    ) ?? 7_200_000
  const ticks: { at: number; label: string }[] = []
  for (let ms = 0; ms < lastsMs * 0.985; ms += stepMs)
    ticks.push({ at: x(ms), label: stepMs < 60_000 && lastsMs < 100_000 ? `${ms / 1000} s` : clockFace(ms) })
  return { x, ticks }
}

/** The least round figure (1, 2, 5 and their tens) that is not below `most`. */
export function roundUp(most: number): number {
  if (most <= 0) return 1
  const ten = 10 ** Math.floor(Math.log10(most))
  return ([1, 2, 5, 10].find((step) => step * ten >= most * 0.999) as number) * ten
}
