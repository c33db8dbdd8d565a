export { type BackupFile, type BackupHeader, readBackup, verifyBackup } from './backup.js'
export {
  backupDirectory,
  BUMP_REVISIONS,
  type DirectorySummary,
  inspectDirectory,
  type MemberDirectory,
  restoreDirectory,
} from './offline.js'
export { type PlantedBug, PLANTED_BUGS, type StoreHandle, type StoreOptions, type StoreWorld } from './options.js'
export { startStore } from './start-store.js'
export { StoreError } from './store-error.js'
export { SUPPORTED_VERSIONS, type VersionRange } from './versions.js'
