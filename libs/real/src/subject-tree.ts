export { checkSubject, SubjectTree } from '@capstan/protocol'
