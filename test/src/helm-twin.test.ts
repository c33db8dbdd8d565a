/**
 * Our renderer of charts against Go's own text/template with sprig: the same text, byte for byte, for the chart with all its
 * variants; and the record of what Go makes of a page of lines (`helm/template-page.ts`; CAPSTAN_RECORD=1 writes it anew). Left out where Debian's golang-go,
 * golang-github-masterminds-sprig-dev and golang-k8s-sigs-yaml-dev (half a gigabyte) are not installed.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { coalesce, loadChart, type Plain, type Release, renderTemplates } from './helm/chart.js'
import { FAILURES, FILE, LINES, PAGE, RECORD, recordedPage, templatesOf } from './helm/template-page.js'
import { VARIANTS } from './helm/variants.js'

const SOURCE = join(import.meta.dirname, '../testdata/helm-twin')
const GOPATH = '/usr/share/gocode'
const lacks = [
  [spawnSync('go', ['version']).status === 0, 'golang-go'],
  [existsSync(`${GOPATH}/src/github.com/Masterminds/sprig`), 'golang-github-masterminds-sprig-dev'],
  [existsSync(`${GOPATH}/src/sigs.k8s.io/yaml`), 'golang-k8s-sigs-yaml-dev'],
].flatMap(([there, name]) => (there ? [] : [name]))
const skip = lacks.length > 0 && `these Debian packages are missing: ${lacks.join(', ')}`

const chart = loadChart(join(import.meta.dirname, '../../helm/capstan'))
let directory = ''
before(() => {
  if (skip) return
  directory = mkdtempSync(join(tmpdir(), 'capstan-helm-twin-'))
  const env = { ...process.env, GO111MODULE: 'off', GOPATH }
  const done = spawnSync('go', ['build', '-o', join(directory, 'twin'), '.'], { cwd: SOURCE, env, encoding: 'utf8' })
  assert.equal(done.status, 0, done.stderr)
})
after(() => directory && rmSync(directory, { recursive: true }))

interface Input {
  values: Plain
  metadata: Plain
  release: Release
}

/** What Go makes of it: the texts, or what it says about the failure. */
function twin(
  templates: ReadonlyMap<string, string>,
  { values, metadata, release }: Input,
): Record<string, string> | string {
  const isInstall = release.isInstall ?? true
  const input = {
    templates: Object.fromEntries(templates),
    values,
    chart: metadata,
    release: {
      Name: release.name ?? 'capstan',
      Namespace: release.namespace ?? 'default',
      Service: 'Helm',
      IsInstall: isInstall,
      IsUpgrade: !isInstall,
      Revision: isInstall ? 1 : 2,
    },
    existing: release.existing ?? {},
  }
  const done = spawnSync(join(directory, 'twin'), { input: JSON.stringify(input), encoding: 'utf8' })
  return done.status === 0 ? (JSON.parse(done.stdout) as Record<string, string>) : done.stderr
}

test('the chart, with every variant of its values', { skip }, () => {
  for (const variant of [{ name: 'default', values: {} as Plain, release: undefined }, ...VARIANTS]) {
    const id = coalesce({ cluster: { id: '9a59f9130055fae9' } }, variant.values)
    const input = { values: coalesce(chart.values, id), metadata: chart.metadata, release: variant.release ?? {} }
    assert.deepEqual(renderTemplates(chart.templates, input), twin(chart.templates, input), variant.name)
  }
})

test('what the chart refuses, Go refuses in the same words', { skip }, () => {
  const running = {
    apiVersion: 'apps/v1',
    metadata: { annotations: { 'capstan.dev/cluster-id': 'a' } },
    spec: { replicas: 3 },
  }
  const upgrade = { isInstall: false, existing: { 'StatefulSet/default/capstan': running } }
  const cases: [Plain, Release, string][] = [
    [{}, {}, 'cluster.id is required'],
    [{ cluster: { id: 'a' }, replicas: 5 }, upgrade, 'there are 3 masters and replicas is 5'],
    [{ cluster: { id: 'b' } }, upgrade, 'cluster.id is b, but the masters that run belong to a'],
    [{ cluster: { id: 'a' }, bus: { port: 6443 } }, {}, 'must differ'],
    [{ cluster: { id: 'a' }, store: { heartbeatMs: 61 } }, {}, 'store.electionTimeoutMs is 300'],
    [{ cluster: { id: 'a' }, podLabels: { 'app.kubernetes.io/name': 'b' } }, {}, 'podLabels may not set'],
    [{ cluster: { id: 'a' }, api: { service: { nodePort: 30000 } } }, {}, 'api.service.nodePort is set'],
  ]
  for (const [values, release, words] of cases) {
    const input = { values: coalesce(chart.values, values), metadata: chart.metadata, release }
    assert.throws(() => renderTemplates(chart.templates, input), new RegExp(words.replaceAll('.', '\\.')))
    assert.match(String(twin(chart.templates, input)), new RegExp(words.replaceAll('.', '\\.')))
  }
})

test('the record of the page is what Go makes of it', { skip }, () => {
  const page: Record<string, string> = {}
  for (const line of LINES) {
    const out = twin(templatesOf(line), PAGE)
    assert.ok(typeof out !== 'string', `Go refuses ${line}: ${String(out)}`)
    page[line] = out[FILE] as string
  }
  if (process.env['CAPSTAN_RECORD']) writeFileSync(RECORD, `${JSON.stringify(page, null, 1)}\n`)
  assert.deepEqual(recordedPage(), page)
  for (const line of FAILURES) assert.equal(typeof twin(templatesOf(line), PAGE), 'string', `Go takes ${line}`)
})
