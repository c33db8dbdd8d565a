/**
 * Our renderer of charts against Go's own text/template with sprig: the same text, byte for byte, for the chart with all its
 * variants and for a page of what is easily got wrong. Left out where Debian's golang-go,
 * golang-github-masterminds-sprig-dev and golang-k8s-sigs-yaml-dev (half a gigabyte) are not installed.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { isDeepStrictEqual } from 'node:util'
import { parse } from 'yaml'
import { coalesce, loadChart, type Plain, type Release, renderTemplates } from './helm/chart.js'
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

/** Lines of a template, each to be rendered alone; `values` is below. */
const LINES = [
  // Blanks
  'a  {{- "b" -}}  c',
  'a {{ "b" }} c',
  'a\n\n{{- "b" }}\n',
  '{{/* c */}}x',
  'y {{- /* c */ -}} z',
  'a{{ `raw "x"` }}',
  '{{"a"|quote}}',
  // Numbers: those of YAML are floats
  '{{ .Values.million }}',
  '{{ int .Values.million }}',
  '{{ .Values.port }}',
  '{{ .Values.small }}',
  '{{ .Values.half }}',
  '{{ .Values.huge }}',
  '{{ .Values.negative }}',
  '{{ .Values.odd }}',
  '{{ int .Values.half }}',
  '{{ add 1 2 3 }} {{ div 7 2 }} {{ mul 2 3 }} {{ mod 7 2 }}',
  '{{ add .Values.port 1 }}',
  '{{ 3 }} {{ 3.5 }} {{ -2 }}',
  '{{ int "12" }}',
  '{{ add (div (int .Values.port) 2) 1 }}',
  '{{ .Values.million | toJson }} {{ .Values.half | toJson }}',
  '{{ printf "%d %s %q %v %%" (int .Values.port) "a" "b\\"c" true }}',
  '{{ printf "%v %v" .Values.port 7 }}',
  // Truth
  '{{ if .Values.none }}a{{ else }}b{{ end }}',
  '{{ if .Values.empty }}a{{ else if .Values.list }}b{{ else }}c{{ end }}',
  '{{ if .Values.zero }}a{{ else }}b{{ end }}',
  '{{ if .Values.emptyMap }}a{{ else }}b{{ end }}',
  '{{ if and .Values.list .Values.none }}a{{ end }}',
  '{{ or .Values.empty "x" }}',
  '{{ and .Values.text .Values.port }}',
  '{{ not .Values.text }}',
  '{{ or .Values.empty .Values.zero }}',
  '{{ and 1 0 2 }}',
  '{{ if eq .Values.text "hello" }}y{{ end }}',
  '{{ ne .Values.text "a" }}',
  '{{ eq 1 2 1 }}',
  '{{ lt 1 2 }} {{ le 2 2 }} {{ gt 1 2 }} {{ ge 2 2 }}',
  '{{ lt "a" "b" }}',
  '{{ eq .Values.port 4222.0 }}',
  '{{ eq .Values.yes true }}',
  // Scopes
  '{{ $a := 1 }}{{ if true }}{{ $a = 2 }}{{ end }}{{ $a }}',
  '{{ $a := 1 }}{{ if true }}{{ $a := 2 }}{{ $a }}{{ end }}{{ $a }}',
  '{{ range $i, $e := .Values.list }}{{ $i }}={{ $e }};{{ end }}',
  '{{ range .Values.list }}{{ . }}{{ $.Values.text }}{{ end }}',
  '{{ range $k, $v := .Values.map }}{{ $k }}:{{ $v }} {{ end }}',
  '{{ range .Values.empties }}a{{ else }}none{{ end }}',
  '{{ range .Values.none }}a{{ else }}none{{ end }}',
  '{{ with .Values.map }}{{ .b }}{{ $.Values.text }}{{ end }}',
  '{{ with .Values.none }}a{{ else }}{{ .Values.text }}{{ end }}',
  '{{ with $x := .Values.text }}{{ $x }}{{ . }}{{ end }}',
  '{{ $s := "" }}{{ range until 3 }}{{ $s = printf "%s%d" $s . }}{{ end }}{{ $s }}',
  '{{ if $x := .Values.text }}{{ $x }}{{ end }}',
  '{{ range $x := .Values.list }}{{ $x }}{{ end }}',
  // Templates
  '{{ define "t" }}[{{ . }}]{{ end }}{{ template "t" "x" }}{{ include "t" .Values.text | quote }}',
  '{{ define "u" -}}\n  {{ .Values.text }}\n{{- end }}{{ include "u" . | nindent 2 }}',
  // Values that are not there
  '[{{ .Values.missing }}]',
  '[{{ .Values.none }}]',
  '{{ .Values.map.missing | default "d" }}',
  '{{ default "d" .Values.zero }}',
  '{{ default "d" .Values.text }}',
  '{{ .Values.missing | quote }}',
  '{{ (dict "a" 1).b }}',
  // Text
  '{{ quote .Values.text .Values.port }}',
  '{{ quote .Values.tricky }}',
  '{{ replace "l" "L" .Values.text }}',
  '{{ "a+b" | replace "+" "_" }}',
  '{{ join "," .Values.list }}',
  '{{ indent 2 "a\\nb" }}',
  '{{ nindent 2 "a\\nb" }}',
  '{{ "x" | sha256sum }}',
  '{{ regexMatch "^[a-z]+$" .Values.text }}',
  '{{ len .Values.text }} {{ len .Values.list }} {{ len .Values.map }} {{ len "é" }}',
  '{{ ternary "a" "b" true }}{{ false | ternary "a" "b" }}',
  // Lists and maps
  '{{ list 1 "a" | toJson }}',
  '{{ $l := list 1 }}{{ $m := append $l 2 }}{{ toJson $l }}{{ toJson $m }}',
  '{{ dict "b" 1 "a" (list) | toJson }}',
  '{{ $d := dict }}{{ $_ := set $d "k" "v" }}{{ $d.k }}',
  '{{ hasKey .Values.map "b" }}{{ hasKey .Values.map "x" }}',
  '{{ get .Values.map "b" }}[{{ get .Values.map "x" }}]',
  '{{ uniq (list 1 2 1) | len }}',
  '{{ (dict "list" (list "a" "b") | toJson | fromJson).list | join "-" }}',
  '{{ .Values | toPrettyJson }}',
  '{{ .Values | toJson }}',
  '{{ "<a> & b" | toJson }}',
  '{{ dict "e" (dict) "l" (list) | toPrettyJson }}',
  '{{ .Values.map | toYaml }}',
  '{{ .Values.list | toYaml | nindent 2 }}',
  '{{ dict "a" "yes" "b" "1" "c" "x: y" "d" "" | toYaml }}',
  '{{ ("a: 1\\nb: x" | fromYaml).b }}',
  '{{ dict "n" .Values.port "m" .Values.million "l" (list (dict "x" 1 "y" (list "p"))) | toYaml }}',
  '{{ .Release.Name }} {{ .Release.Revision }} {{ .Chart.Name }} {{ .Release.IsInstall }}',
  '{{ lookup "v1" "Secret" "a" "b" | len }}',
  '{{ if lookup "v1" "Secret" "default" "there" }}y{{ end }}',
  '{{ (lookup "v1" "Secret" "default" "there").data.k }}',
  '{{ required "m" .Values.text }}',
  '{{ required "m" .Values.zero }}',
  '{{ required "m" .Values.yes }}',
]

/** Lines that must fail, here and there. */
const FAILURES = [
  '{{ .Values.text.x }}',
  '{{ .Values.missing.x }}',
  '{{ .Chart.Nothing }}',
  '{{ nothing }}',
  '{{ $x }}',
  '{{ eq 1 "a" }}',
  '{{ eq .Values.port 4222 }}',
  '{{ lt 1 "a" }}',
  '{{ if }}',
  '{{ end }}',
  '{{ if true }}',
  '{{ else }}',
  '{{ include "no" . }}',
  '{{ template "no" . }}',
  '{{ required "m" .Values.none }}',
  '{{ required "m" "" }}',
  '{{ fail "m" }}',
  '{{ "a" "b" }}',
  '{{ range 1.5 }}{{ end }}',
  '{{ "x',
  '{{ /* c */ }}',
  '{{ .Values.text | .Values.text }}',
  '{{ 1 | 2 }}',
  '{{ $a = 1 }}',
  '{{ div 1 0 }}',
  '{{ (1',
  '{{ len 3 }}',
  '{{ define "a" }}',
  '{{ nil }}',
  '{{ fromJson 3 }}',
  '{{ hasKey .Values.text "a" }}',
  '{{ index .Values.list 9 }}',
]

const PAGE: Input = {
  metadata: { name: 'page', version: '1.0.0', appVersion: '2' },
  release: { existing: { 'Secret/default/there': { apiVersion: 'v1', data: { k: 'v' } } } },
  values: {
    ...{ million: 1_000_000, port: 4222, small: 0.00001, half: 2.5, huge: 1e21, negative: -7, odd: 123456.75, zero: 0 },
    ...{ text: 'hello', empty: '', yes: true, none: null, list: ['p', 'q'], empties: [], emptyMap: {} },
    ...{ map: { b: 'two', a: 'one', C: 'three' }, tricky: 'a "b" \\ c\ttab\nline é' },
  },
}

test('a page of what is easily got wrong', { skip }, () => {
  const templates = (line: string) => new Map([['page/templates/line.txt', line]])
  const ours = (line: string): Record<string, string> | string => {
    try {
      return renderTemplates(templates(line), PAGE)
    } catch (error) {
      return String(error)
    }
  }
  // Which quotation marks a YAML string has, the two writers see differently.
  const read = (line: string, out: Record<string, string> | string) =>
    line.includes('toYaml') && typeof out !== 'string' ? Object.values(out).map((text) => parse(text) as unknown) : out
  const lines = LINES.map((line) => ({ line, ours: ours(line), go: twin(templates(line), PAGE) }))
  assert.deepEqual(
    lines.filter(({ line, ours, go }) => !isDeepStrictEqual(read(line, ours), read(line, go))),
    [],
  )
  // Here the words differ; that both refuse is what counts.
  const failures = FAILURES.map((line) => ({ line, ours: ours(line), go: twin(templates(line), PAGE) }))
  assert.deepEqual(
    failures.filter(({ ours, go }) => typeof ours !== 'string' || typeof go !== 'string'),
    [],
  )
})
