import type { ReportModel } from './report-model.js'

/** A suite for the run, a case for each promise: JUnit's XML as CI systems read it. `unknown` is an error, `not tested` is skipped. */
export function junit(model: ReportModel): string {
  const cases = model.promises.map(({ promise, title, state, text, evidence, mustHold }) => {
    const open = `  <testcase classname="${attribute(`chaos.${model.scenario}`)}" name="${attribute(`${promise}: ${title}`)}"`
    const body = attribute(text)
    if (state === 'ok') return `${open}/>`
    if (state === 'violated')
      return `${open}>\n    <failure message="${body}">${content(evidence.join('\n'))}</failure>\n  </testcase>`
    // What the scenario needs and nobody could test is no pass.
    if (state === 'unknown' || mustHold)
      return `${open}>\n    <error message="${attribute(`${state}: ${text}`)}"/>\n  </testcase>`
    return `${open}>\n    <skipped message="${body}"/>\n  </testcase>`
  })
  const run = `  <testcase classname="${attribute(`chaos.${model.scenario}`)}" name="the run itself"`
  cases.push(
    model.troubles.length === 0
      ? `${run}/>`
      : `${run}>\n    <error message="${attribute(model.troubles.join('; '))}"/>\n  </testcase>`,
  )
  const number = (tag: string) => cases.filter((one) => one.includes(`<${tag} `)).length
  return `<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="${attribute(`capstan chaos ${model.scenario} on ${model.on}, seed ${model.seed}`)}" tests="${cases.length}" failures="${number('failure')}" errors="${number('error')}" skipped="${number('skipped')}" time="${(model.lastsMs / 1000).toFixed(3)}" timestamp="${attribute(model.startedAt)}">
${cases.join('\n')}
</testsuite>
`
}

// XML allows no control characters, however they are written.
// oxlint-disable-next-line no-control-regex
const legal = (text: string) => text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '?')
const content = (text: string) =>
  legal(text).replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c] as string)
const attribute = (text: string) => content(text).replace(/"/g, '&quot;').replace(/\n/g, '&#10;')
