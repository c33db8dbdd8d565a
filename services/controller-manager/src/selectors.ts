import type { LabelSelector } from './kinds.js'

/** Does a LabelSelector fit these labels? An empty one fits everything, none nothing (as Kubernetes has it). */
export function selectorFits(selector: LabelSelector | undefined, labels: Record<string, string> = {}): boolean {
  if (!selector) return false
  if (!mapFits(selector.matchLabels ?? {}, labels)) return false
  return (selector.matchExpressions ?? []).every(({ key, operator, values = [] }) => {
    const value = labels[key]
    switch (operator) {
      case 'In':
        return value !== undefined && values.includes(value)
      case 'NotIn':
        return value === undefined || !values.includes(value)
      case 'Exists':
        return value !== undefined
      case 'DoesNotExist':
        return value === undefined
      default:
        // Validation lets no other operator in; what is not understood selects nothing.
        return false
    }
  })
}

/** Are all these pairs among the labels? */
export function mapFits(map: Record<string, string>, labels: Record<string, string> = {}): boolean {
  return Object.entries(map).every(([key, value]) => labels[key] === value)
}

export function isEmptySelector(selector: LabelSelector | undefined): boolean {
  return Object.keys(selector?.matchLabels ?? {}).length === 0 && (selector?.matchExpressions ?? []).length === 0
}
