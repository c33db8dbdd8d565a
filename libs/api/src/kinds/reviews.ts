import type { Kind } from '../kind.js'
import { defineKind } from './define.js'

/** Questions to the server: answered at once, never kept. */
const review = (group: string, kind: string, resource: string, definitionGroup: string, namespaced = false): Kind =>
  defineKind({
    group,
    kind,
    resource,
    namespaced,
    isReview: true,
    verbs: ['create'],
    definition: `io.k8s.api.${definitionGroup}.v1.${kind}`,
    nameRule: () => undefined,
    columns: [],
  })

export const REVIEWS: Kind[] = [
  review('authentication.k8s.io', 'TokenReview', 'tokenreviews', 'authentication'),
  review('authentication.k8s.io', 'SelfSubjectReview', 'selfsubjectreviews', 'authentication'),
  review('authorization.k8s.io', 'SubjectAccessReview', 'subjectaccessreviews', 'authorization'),
  review('authorization.k8s.io', 'SelfSubjectAccessReview', 'selfsubjectaccessreviews', 'authorization'),
  review('authorization.k8s.io', 'SelfSubjectRulesReview', 'selfsubjectrulesreviews', 'authorization'),
  review('authorization.k8s.io', 'LocalSubjectAccessReview', 'localsubjectaccessreviews', 'authorization', true),
]
