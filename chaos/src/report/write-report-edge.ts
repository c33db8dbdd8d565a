import { createWriteStream, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { join, relative } from 'node:path'
import type { RunRecord } from '../harness/types.js'
import { junit } from './junit.js'
import { reportPage } from './page.js'
import { type ReportModel, reportModel } from './report-model.js'
import { type SummarisedRun, summarise, summaryPage, summaryText, type Summary } from './summary.js'

const DEPTH_MAX = 4

/** `report.html`, its twin `report.json`, `junit.xml` and all that was recorded, `run.json`. Returns the page's path. */
export async function writeReport(run: RunRecord, directory: string): Promise<string> {
  mkdirSync(directory, { recursive: true })
  const model = reportModel(run)
  const page = join(directory, 'report.html')
  writeFileSync(page, reportPage(model))
  writeFileSync(join(directory, 'report.json'), `${JSON.stringify(model, undefined, 1)}\n`)
  writeFileSync(join(directory, 'junit.xml'), junit(model))
  await writeRecord(run, join(directory, 'run.json'))
  return page
}

/** In pieces: the histories of an hour are longer than the longest string. */
async function writeRecord(run: RunRecord, path: string): Promise<void> {
  const out = createWriteStream(path)
  const write = async (text: string) => {
    if (!out.write(text)) await once(out, 'drain')
  }
  const { workloads, finalState, ...small } = run
  await write(`${JSON.stringify(small).slice(0, -1)},"finalState":${JSON.stringify(finalState)},"workloads":[`)
  for (const [at, { history, ...workload }] of workloads.entries()) {
    await write(`${at > 0 ? ',' : ''}\n${JSON.stringify(workload).slice(0, -1)},"history":[`)
    for (let from = 0; from < history.length; from += 500)
      await write(
        `${from > 0 ? ',' : ''}\n${history
          .slice(from, from + 500)
          .map((record) => JSON.stringify(record))
          .join(',\n')}`,
      )
    await write(']}')
  }
  out.end(']}\n')
  await once(out, 'finish')
}

/**
 * All runs whose reports lie below a directory, in one table: `summary.html`, `summary.json` there, and the text. `only`: these
 * of its directories.
 * @throws Error if there is none.
 */
export function summariseDirectory(
  directory: string,
  only?: readonly string[],
): { summary: Summary; text: string; page: string } {
  const found = only ?? reportsBelow(directory, DEPTH_MAX)
  const runs = found.map((where): SummarisedRun => {
    const model = JSON.parse(readFileSync(join(where, 'report.json'), 'utf8')) as ReportModel
    const violated = model.promises.filter((one) => one.state === 'violated').map((one) => one.promise)
    return { ...model, directory: relative(directory, where) || '.', violated }
  })
  if (runs.length === 0) throw new Error(`there is no report.json in or below ${directory}`)
  runs.sort((a, b) => (a.startedAt < b.startedAt ? -1 : 1))
  const summary = summarise(runs)
  const page = join(directory, 'summary.html')
  writeFileSync(page, summaryPage(summary))
  writeFileSync(join(directory, 'summary.json'), `${JSON.stringify(summary, undefined, 1)}\n`)
  return { summary, text: summaryText(summary), page }
}

function reportsBelow(directory: string, depth: number): string[] {
  if (depth < 0) return []
  const own = existsSync(join(directory, 'report.json')) ? [directory] : []
  const below = readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap((entry) => reportsBelow(join(directory, entry.name), depth - 1))
  return [...own, ...below]
}
