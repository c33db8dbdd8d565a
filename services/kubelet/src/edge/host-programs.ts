import { accessSync, constants, statSync } from 'node:fs'
import { join } from 'node:path'

/** What the process runtime runs for an image whose container brings no command of its own. */
export interface HostProgram {
  /** Tried in this order, in PATH and the system's directories. */
  programs: string[]
  args: string[]
  debianPackage: string
  /** Configured for its pod before it starts: see `nginxConfig`. */
  configure?: 'nginx'
}

const SHELL: HostProgram = { programs: ['sh'], args: [], debianPackage: 'dash' }

const PROGRAMS: Record<string, HostProgram> = {
  nginx: { programs: ['nginx'], args: [], debianPackage: 'nginx-light', configure: 'nginx' },
  redis: { programs: ['redis-server'], args: [], debianPackage: 'redis-server' },
  memcached: { programs: ['memcached'], args: [], debianPackage: 'memcached' },
  node: { programs: ['node'], args: [], debianPackage: 'nodejs' },
  python: { programs: ['python3'], args: [], debianPackage: 'python3' },
  pause: { programs: ['sleep'], args: ['2147483647'], debianPackage: 'coreutils' },
  busybox: { ...SHELL, programs: ['busybox', 'sh'], debianPackage: 'busybox-static' },
  alpine: SHELL,
  debian: SHELL,
  ubuntu: SHELL,
}

/** `nginx` of `docker.io/library/nginx:1.22@sha256:…`. */
export function baseNameOf(image: string): string {
  const path = image.split('@')[0] ?? ''
  const last = path.slice(path.lastIndexOf('/') + 1)
  return last.split(':')[0] ?? ''
}

/** Undefined: nothing is known of this image. */
export function programFor(image: string): HostProgram | undefined {
  const name = baseNameOf(image)
  return Object.hasOwn(PROGRAMS, name) ? PROGRAMS[name] : undefined
}

const SYSTEM_PATH = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']

/** The full path of a program, searched as a shell would. */
export function findProgram(name: string, path: string | undefined, workingDir = '/'): string | undefined {
  if (name.includes('/')) {
    const file = name.startsWith('/') ? name : join(workingDir, name)
    return isExecutable(file) ? file : undefined
  }
  for (const dir of [...(path ?? '').split(':').filter(Boolean), ...SYSTEM_PATH])
    if (isExecutable(join(dir, name))) return join(dir, name)
  return undefined
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return statSync(file).isFile()
  } catch {
    return false
  }
}

/** nginx for one pod: on the pod's address, all files in the container's directory, logs to stdout and stderr. */
export function nginxConfig(options: {
  directory: string
  address: string
  port: number
  hostname: string
  image: string
  /** What is mounted at nginx's usual place for pages. */
  html: string | undefined
  isRoot: boolean
}): string {
  const { directory, address, port, hostname, image, html, isRoot } = options
  const colour = image.endsWith(':green') ? ' style="color: green"' : ''
  const page = `<!DOCTYPE html>\\n<title>Welcome to nginx!</title>\\n<h1${colour.replaceAll('"', '\\"')}>Welcome to nginx!</h1>\\n<p>Served by ${hostname}</p>\\n`
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `  ${kind}_temp_path ${directory}/${kind};`)
    .join('\n')
  return `daemon off;
${isRoot ? 'user nobody nogroup;\n' : ''}worker_processes 1;
pid ${directory}/nginx.pid;
error_log stderr notice;
events { worker_connections 512; }
http {
  default_type text/html;
  types { text/html html; text/css css; application/javascript js; application/json json; image/png png; image/svg+xml svg; }
  access_log /dev/stdout combined;
${temporary}
  server {
    listen ${address}:${port};
    add_header X-Pod ${hostname} always;
    ${html === undefined ? `location = / { return 200 "${page}"; }` : `root ${html};`}
    location = /healthz { access_log off; return 200 "ok\\n"; }
  }
}
`
}
