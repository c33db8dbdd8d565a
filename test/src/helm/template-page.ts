/**
 * A page of what is easily got wrong in a template. What Go makes of it is recorded in `testdata/helm-twin/page.json`, so that
 * our renderer is held to it also where Go is not installed.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Plain, type Release, renderTemplates } from './chart.js'

/** Lines of a template, each to be rendered alone; `values` is below. */
export const LINES = [
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
export const FAILURES = [
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

export const PAGE: { values: Plain; metadata: Plain; release: Release } = {
  metadata: { name: 'page', version: '1.0.0', appVersion: '2' },
  release: { existing: { 'Secret/default/there': { apiVersion: 'v1', data: { k: 'v' } } } },
  values: {
    ...{ million: 1_000_000, port: 4222, small: 0.00001, half: 2.5, huge: 1e21, negative: -7, odd: 123456.75, zero: 0 },
    ...{ text: 'hello', empty: '', yes: true, none: null, list: ['p', 'q'], empties: [], emptyMap: {} },
    ...{ map: { b: 'two', a: 'one', C: 'three' }, tricky: 'a "b" \\ c\ttab\nline é' },
  },
}

export const RECORD = join(import.meta.dirname, '../../testdata/helm-twin/page.json')
/** Line → what Go made of it. */
export const recordedPage = () => JSON.parse(readFileSync(RECORD, 'utf8')) as Record<string, string>

export const templatesOf = (line: string) => new Map([[FILE, line]])
export const FILE = 'page/templates/line.txt'

/** What our renderer makes of a line; undefined: it refuses it. */
export function renderLine(line: string): string | undefined {
  try {
    return renderTemplates(templatesOf(line), PAGE)[FILE]
  } catch {
    return undefined
  }
}
