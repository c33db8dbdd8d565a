import { duplicate, forbidden, invalid, notSupported, required, type StatusCause } from '../causes.js'
import { asList, asObject, asText, isObject, type Json } from '../kube-object.js'
import { configKey, dns1123Label } from '../names.js'

const HOST_PATH_TYPES = [
  '',
  'BlockDevice',
  'CharDevice',
  'Directory',
  'DirectoryOrCreate',
  'File',
  'FileOrCreate',
  'Socket',
]

/** Of a pod's spec; collects the volumes' names. */
export function validateVolumes(volumes: Json[], path: string, names: Set<string>): StatusCause[] {
  const causes: StatusCause[] = []
  for (const [i, volume] of volumes.entries()) {
    const at = `${path}[${i}]`
    const name = asText(volume['name'])
    const wrong = name ? dns1123Label(name) : undefined
    if (!name) causes.push(required(`${at}.name`))
    else if (names.has(name)) causes.push(duplicate(`${at}.name`, name))
    else if (wrong) causes.push(invalid(`${at}.name`, name, wrong))
    names.add(name)
    if (Object.keys(volume).filter((field) => field !== 'name').length > 1)
      causes.push(forbidden(at, 'may not specify more than 1 volume type'))
    causes.push(...validateSource(volume, at))
  }
  return causes
}

function validateSource(volume: Json, at: string): StatusCause[] {
  const { hostPath, secret, configMap, downwardAPI, projected } = volume
  const causes: StatusCause[] = []
  if (isObject(hostPath)) {
    const path = asText(hostPath['path'])
    if (!path) causes.push(required(`${at}.hostPath.path`))
    else if (hasParent(path)) causes.push(invalid(`${at}.hostPath.path`, path, "must not contain '..'"))
    const type = asText(hostPath['type'])
    if (!HOST_PATH_TYPES.includes(type)) causes.push(notSupported(`${at}.hostPath.type`, type, HOST_PATH_TYPES))
  }
  if (isObject(secret)) {
    if (!asText(secret['secretName'])) causes.push(required(`${at}.secret.secretName`))
    causes.push(...validateFiles(secret, `${at}.secret`))
  }
  if (isObject(configMap)) {
    if (!asText(configMap['name'])) causes.push(required(`${at}.configMap.name`))
    causes.push(...validateFiles(configMap, `${at}.configMap`))
  }
  if (isObject(downwardAPI)) causes.push(...validateDownward(downwardAPI, `${at}.downwardAPI`))
  if (isObject(projected)) {
    causes.push(...validateMode(projected['defaultMode'], `${at}.projected.defaultMode`))
    for (const [i, source] of asList(projected['sources']).entries()) {
      const sourceAt = `${at}.projected.sources[${i}]`
      const kinds = Object.keys(source)
      if (kinds.length > 1) causes.push(forbidden(sourceAt, 'may not specify more than 1 volume type'))
      for (const field of ['secret', 'configMap']) {
        const given = source[field]
        if (!isObject(given)) continue
        if (!asText(given['name'])) causes.push(required(`${sourceAt}.${field}.name`))
        causes.push(...validateFiles(given, `${sourceAt}.${field}`))
      }
      if (isObject(source['downwardAPI']))
        causes.push(...validateDownward(source['downwardAPI'], `${sourceAt}.downwardAPI`))
      const token = source['serviceAccountToken']
      if (isObject(token)) causes.push(...validateFilePath(token['path'], `${sourceAt}.serviceAccountToken.path`))
    }
  }
  return causes
}

/** `items` of a secret or config map: which key goes into which file. */
function validateFiles(source: Json, at: string): StatusCause[] {
  const causes = validateMode(source['defaultMode'], `${at}.defaultMode`)
  for (const [i, item] of asList(source['items']).entries()) {
    const itemAt = `${at}.items[${i}]`
    const key = asText(item['key'])
    const wrong = key ? configKey(key) : undefined
    if (!key) causes.push(required(`${itemAt}.key`))
    else if (wrong) causes.push(invalid(`${itemAt}.key`, key, wrong))
    causes.push(...validateFilePath(item['path'], `${itemAt}.path`), ...validateMode(item['mode'], `${itemAt}.mode`))
  }
  return causes
}

function validateDownward(source: Json, at: string): StatusCause[] {
  const causes = validateMode(source['defaultMode'], `${at}.defaultMode`)
  for (const [i, item] of asList(source['items']).entries()) {
    const itemAt = `${at}.items[${i}]`
    causes.push(...validateFilePath(item['path'], `${itemAt}.path`), ...validateMode(item['mode'], `${itemAt}.mode`))
    const refs = ['fieldRef', 'resourceFieldRef'].filter((field) => isObject(item[field]))
    if (refs.length === 0) causes.push(required(itemAt, 'one of fieldRef and resourceFieldRef is required'))
    if (refs.length > 1)
      causes.push(
        invalid(itemAt, asText(item['path']), 'fieldRef and resourceFieldRef can not be specified simultaneously'),
      )
    if (isObject(item['fieldRef']) && !asText(item['fieldRef']['fieldPath']))
      causes.push(required(`${itemAt}.fieldRef.fieldPath`))
    if (isObject(item['resourceFieldRef']) && !asText(asObject(item['resourceFieldRef'])['resource']))
      causes.push(required(`${itemAt}.resourceFieldRef.resource`))
  }
  return causes
}

const hasParent = (path: string) => path.split('/').includes('..')

/** Of a file that a kubelet writes: it must stay within its volume. */
function validateFilePath(value: unknown, at: string): StatusCause[] {
  const path = asText(value)
  if (!path) return [required(at)]
  // Names that start with '..' are the atomic writer's own.
  if (!hasParent(path) && path.startsWith('..')) return [invalid(at, path, "must not start with '..'")]
  return validateLocalPath(path, at)
}

/** Relative, and never upwards. */
export function validateLocalPath(path: string, at: string): StatusCause[] {
  if (path.startsWith('/')) return [invalid(at, path, 'must be a relative path')]
  return hasParent(path) ? [invalid(at, path, "must not contain '..'")] : []
}

function validateMode(mode: unknown, at: string): StatusCause[] {
  const isMode = mode === undefined || (typeof mode === 'number' && mode >= 0 && mode <= 0o777)
  return isMode ? [] : [invalid(at, mode, 'must be a number between 0 and 0777 (octal), both inclusive')]
}
