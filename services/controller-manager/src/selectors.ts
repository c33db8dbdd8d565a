import { labelSelectorMatcher } from '@capstan/api'
import type { LabelSelector } from './kinds.js'

/** Does a LabelSelector fit these labels? An empty one fits everything, none nothing (as Kubernetes has it). */
export function selectorFits(selector: LabelSelector | undefined, labels: Record<string, string> | undefined): boolean {
  return labelSelectorMatcher(selector)(labels)
}

/** Are all these pairs among the labels? */
export function mapFits(map: Record<string, string>, labels: Record<string, string> = {}): boolean {
  return Object.entries(map).every(([key, value]) => labels[key] === value)
}

export function isEmptySelector(selector: LabelSelector | undefined): boolean {
  return Object.keys(selector?.matchLabels ?? {}).length === 0 && (selector?.matchExpressions ?? []).length === 0
}
