// npm run images: OCI archives of nginx, busybox and pause in build/images, made of Debian packages only: no registry, no
// docker. Runs on Debian; needs apt-get and dpkg-deb. The same packages give the same bytes; what is up to date is kept.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')
const PACKAGES = [
  'busybox',
  'busybox-static',
  'libc6',
  'libcrypt1',
  'libpcre2-8-0',
  'libssl3',
  'nginx',
  'nginx-common',
  'tini',
  'zlib1g',
]
const OCI_ARCHITECTURES = {
  amd64: 'amd64',
  arm64: 'arm64',
  armhf: 'arm',
  i386: '386',
  ppc64el: 'ppc64le',
  riscv64: 'riscv64',
  s390x: 's390x',
}
/** The name under which containerd's configuration asks for the sandbox image. */
export const PAUSE_IMAGE = 'localhost/capstan/pause:1'

/**
 * Builds what is missing or out of date.
 * @returns {{ directory: string, archives: string[], built: boolean }}
 * @throws Error with a sentence for people.
 */
export function buildImages(directory = join(root, 'build/images')) {
  const archives = ['busybox', 'nginx', 'pause'].map((name) => join(directory, `${name}.tar`))
  for (const tool of ['apt-get', 'dpkg', 'dpkg-deb'])
    if (spawnSync(tool, ['--version'], { stdio: 'ignore' }).error) {
      if (archives.every((file) => existsSync(file))) return { directory, archives, built: false }
      throw new Error(
        `${tool} is missing: images can only be built on Debian; copy ${archives.join(', ')} from a machine that has them`,
      )
    }
  const uris = packageUris()
  const key = sha256(readFileSync(import.meta.filename) + uris.map((uri) => `${uri.file} ${uri.hash}`).join('\n'))
  const keyFile = join(directory, 'key')
  if (existsSync(keyFile) && readFileSync(keyFile, 'utf8') === key && archives.every((file) => existsSync(file)))
    return { directory, archives, built: false }
  mkdirSync(directory, { recursive: true })
  const packages = download(join(directory, 'packages'), uris)
  for (const [name, images] of Object.entries(describeImages(packages))) {
    const file = join(directory, `${name}.tar`)
    // Whole or not at all: another start may read it while we write.
    writeFileSync(`${file}.new`, archive(images))
    renameSync(`${file}.new`, file)
  }
  writeFileSync(keyFile, key)
  return { directory, archives, built: true }
}

// ---------------------------------------------------------------------------------------------------------- the images

function describeImages(packages) {
  const architecture = must('dpkg', ['--print-architecture']).toString().trim()
  const oci = OCI_ARCHITECTURES[architecture]
  if (!oci) throw new Error(`no image architecture is known for Debian's ${architecture}`)
  const path = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

  // The dynamic one: a static glibc program crashes when it looks up a host, and so would its wget.
  const busybox = pick(packages['busybox'], [/^bin\/busybox$/, /copyright$/])
  const shell = layer([...base(), ...busybox, ...applets(busybox.find((entry) => entry.path === 'bin/busybox').data)])

  const librariesOf = (names) =>
    names.flatMap((name) =>
      pick(packages[name], [/^(usr\/)?lib(64|32)?\/.*\.so[.0-9]*$/, /copyright$/], [/gconv|engines-3|ossl-modules/]),
    )
  const system = layer(librariesOf(['libc6', 'libcrypt1', 'libpcre2-8-0', 'libssl3', 'zlib1g']))
  const server = pick(packages['nginx'], [/^usr\/sbin\/nginx$/, /copyright$/])
  const types = pick(packages['nginx-common'], [/^etc\/nginx\/(mime\.types|[a-z]+_params)$/])
  const nginxLayer = (colour) =>
    layer([...server, ...types, text('etc/nginx/nginx.conf', nginxConf(colour)), directory('var/cache/nginx', 0o1777)])
  // Debian's version without epoch and revision: 1.22.1.
  const version = packages['nginx'].version.replace(/^\d+:/, '').replace(/[-+~].*$/, '')
  const nginx = (colour) => ({
    architecture: oci,
    layers: [shell, system, nginxLayer(colour)],
    config: {
      Env: [path, `NGINX_VERSION=${version}`],
      Cmd: ['/usr/sbin/nginx', '-g', 'daemon off;'],
      ExposedPorts: { '80/tcp': {} },
      StopSignal: 'SIGQUIT',
      WorkingDir: '/',
    },
  })

  const tini = pick(packages['tini'], [/^usr\/bin\/tini-static$/, /copyright$/])
  const sleep = pick(packages['busybox-static'], [/^bin\/busybox$/, /copyright$/]).map((entry) =>
    entry.path === 'bin/busybox' ? { ...entry, path: 'bin/sleep' } : entry,
  )
  return {
    busybox: [
      {
        architecture: oci,
        layers: [shell, layer(librariesOf(['libc6']))],
        config: { Env: [path], Cmd: ['sh'], WorkingDir: '/' },
        names: [
          'docker.io/library/busybox:latest',
          `docker.io/library/busybox:${packages['busybox'].version.replace(/^\d+:/, '').replace(/[-+~].*$/, '')}`,
        ],
      },
    ],
    nginx: [
      {
        ...nginx(''),
        names: ['latest', version, version.split('.').slice(0, 2).join('.')].map(
          (tag) => `docker.io/library/nginx:${tag}`,
        ),
      },
      // The same server with another page: what `kubectl set image` can be seen by.
      { ...nginx('green'), names: ['docker.io/library/nginx:green'] },
    ],
    pause: [
      {
        architecture: oci,
        // tini is process 1 of the sandbox: it reaps orphans of a shared process namespace and passes SIGTERM on.
        layers: [layer([...tini, ...sleep])],
        config: { Entrypoint: ['/usr/bin/tini-static', '--', '/bin/sleep', '2147483647'], WorkingDir: '/' },
        names: [PAUSE_IMAGE],
      },
    ],
  }
}

function base() {
  return [
    text(
      'etc/passwd',
      'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n',
    ),
    text('etc/group', 'root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n'),
    text('etc/nsswitch.conf', 'passwd: files\ngroup: files\nhosts: files dns\n'),
    directory('root', 0o700),
    directory('tmp', 0o1777),
    directory('var/tmp', 0o1777),
    directory('run', 0o755),
    directory('usr/bin', 0o755),
    directory('usr/sbin', 0o755),
    directory('sbin', 0o755),
  ]
}

/** One link for each thing that this busybox can do. */
function applets(binary) {
  const dir = mkdtempSync(join(tmpdir(), 'capstan-images-'))
  try {
    const file = join(dir, 'busybox')
    writeFileSync(file, binary)
    chmodSync(file, 0o755)
    const names = must(file, ['--list']).toString().split('\n').filter(Boolean)
    return names.filter((name) => name !== 'busybox').map((name) => link(`bin/${name}`, '/bin/busybox'))
  } finally {
    rmSync(dir, { recursive: true })
  }
}

// The page names its pod ($hostname is the pod's name), so that one sees which of them answered.
function nginxConf(colour) {
  const style = colour ? ` style="color: ${colour}"` : ''
  return `user nobody nogroup;
worker_processes 1;
pid /tmp/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 512; }
http {
  include /etc/nginx/mime.types;
  default_type text/html;
  access_log /dev/stdout combined;
  client_body_temp_path /tmp/client_body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server {
    listen 80 default_server;
    root /usr/share/nginx/html;
    add_header X-Pod $hostname always;
    location = / {
      return 200 "<!DOCTYPE html>\\n<title>Welcome to nginx!</title>\\n<h1${style.replaceAll('"', '\\"')}>Welcome to nginx!</h1>\\n<p>Served by $hostname</p>\\n";
    }
    location = /healthz { access_log off; return 200 "ok\\n"; }
  }
}
`
}

// -------------------------------------------------------------------------------------------------------- the packages

/** What apt would download, and where from. Nothing is fetched, unless this machine has no package lists yet. */
function packageUris() {
  const ask = () => spawnSync('apt-get', ['download', '--print-uris', ...PACKAGES], { encoding: 'utf8' })
  let asked = ask()
  if (asked.status !== 0) {
    must('apt-get', ['update', '-q'])
    asked = ask()
  }
  if (asked.status !== 0) throw new Error(`apt-get knows not all of ${PACKAGES.join(', ')}: ${asked.stderr.trim()}`)
  const uris = []
  for (const line of asked.stdout.split('\n')) {
    const found = /^'[^']+' (\S+) \d+ (\S*)$/.exec(line)
    if (found) uris.push({ file: found[1], hash: found[2] })
  }
  return uris.sort((a, b) => (a.file < b.file ? -1 : 1))
}

/** Name → entries and version. */
function download(dir, uris) {
  mkdirSync(dir, { recursive: true })
  if (!uris.every(({ file }) => existsSync(join(dir, file))))
    must('apt-get', ['download', '-q', '-o', 'APT::Sandbox::User=root', ...PACKAGES], { cwd: dir })
  const packages = {}
  for (const { file } of uris) {
    const path = join(dir, file)
    const [name, version] = must('dpkg-deb', ['-W', '--showformat=${Package} ${Version}', path]).toString().split(' ')
    const entries = readTar(must('dpkg-deb', ['--fsys-tarfile', path]))
    packages[name] = Object.assign(entries, { version })
  }
  for (const name of PACKAGES) if (!packages[name]) throw new Error(`package ${name} could not be downloaded`)
  return packages
}

function pick(entries, wanted, unwanted = []) {
  return entries.filter(
    (entry) =>
      entry.type !== 'directory' &&
      wanted.some((one) => one.test(entry.path)) &&
      !unwanted.some((one) => one.test(entry.path)),
  )
}

// ------------------------------------------------------------------------------------------------------------- archives

const text = (path, content) => ({ path, type: 'file', mode: 0o644, data: Buffer.from(content) })
const directory = (path, mode) => ({ path, type: 'directory', mode })
const link = (path, target) => ({ path, type: 'link', mode: 0o777, target })
const sha256 = (data) => createHash('sha256').update(data).digest('hex')

/** An uncompressed layer: sorted, no times, all root's. Parent directories are added. */
function layer(entries) {
  const byPath = new Map()
  for (const entry of entries) {
    const parts = entry.path.split('/')
    for (let depth = 1; depth < parts.length; depth++) {
      const parent = parts.slice(0, depth).join('/')
      if (!byPath.has(parent)) byPath.set(parent, directory(parent, 0o755))
    }
    byPath.set(entry.path, entry)
  }
  return writeTar([...byPath.values()].sort((a, b) => (a.path < b.path ? -1 : 1)))
}

/** An OCI image layout in a tar. */
function archive(images) {
  const blobs = new Map()
  const put = (mediaType, data) => {
    const digest = sha256(data)
    blobs.set(digest, data)
    return { mediaType, digest: `sha256:${digest}`, size: data.length }
  }
  const json = (mediaType, value) => put(mediaType, Buffer.from(JSON.stringify(value)))
  const manifests = []
  for (const { architecture, layers, config, names } of images) {
    const rootfs = { type: 'layers', diff_ids: layers.map((data) => `sha256:${sha256(data)}`) }
    const manifest = json('application/vnd.oci.image.manifest.v1+json', {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: json('application/vnd.oci.image.config.v1+json', {
        architecture,
        os: 'linux',
        config,
        rootfs,
        created: '1970-01-01T00:00:00Z',
        history: layers.map(() => ({ created: '1970-01-01T00:00:00Z', created_by: 'capstan build-images' })),
      }),
      layers: layers.map((data) => put('application/vnd.oci.image.layer.v1.tar', data)),
    })
    for (const name of names)
      manifests.push({
        ...manifest,
        platform: { architecture, os: 'linux' },
        annotations: {
          'io.containerd.image.name': name,
          'org.opencontainers.image.ref.name': name.slice(name.lastIndexOf(':') + 1),
        },
      })
  }
  return writeTar([
    text('oci-layout', JSON.stringify({ imageLayoutVersion: '1.0.0' })),
    text(
      'index.json',
      JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests }),
    ),
    directory('blobs', 0o755),
    directory('blobs/sha256', 0o755),
    ...[...blobs]
      .sort((a, b) => (a[0] < b[0] ? -1 : 1))
      .map(([digest, data]) => ({ path: `blobs/sha256/${digest}`, type: 'file', mode: 0o644, data })),
  ])
}

const TYPES = { file: '0', link: '2', directory: '5' }

/** POSIX ustar; every name here is short enough for it. */
function writeTar(entries) {
  const parts = []
  for (const { path, type, mode, data, target = '' } of entries) {
    const name = type === 'directory' ? `${path}/` : path
    const cut = Buffer.byteLength(name) <= 100 ? 0 : name.indexOf('/', name.length - 101) + 1
    if (Buffer.byteLength(name) > 100 && (cut <= 0 || cut > 155))
      throw new Error(`name too long for an archive: ${name}`)
    const header = Buffer.alloc(512)
    header.write(name.slice(cut), 0)
    header.write(`${mode.toString(8).padStart(7, '0')}\0`, 100)
    header.write('0000000\0', 108)
    header.write('0000000\0', 116)
    header.write(`${(data?.length ?? 0).toString(8).padStart(11, '0')}\0`, 124)
    header.write('00000000000\0', 136)
    header.write('        ', 148)
    header.write(TYPES[type], 156)
    header.write(target, 157)
    header.write('ustar\x0000', 257)
    if (cut > 0) header.write(name.slice(0, cut - 1), 345)
    let sum = 0
    for (const byte of header) sum += byte
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
    parts.push(header)
    if (data) parts.push(data, Buffer.alloc((512 - (data.length % 512)) % 512))
  }
  parts.push(Buffer.alloc(1024))
  return Buffer.concat(parts)
}

/** Files, symbolic links and directories of a package; GNU's long names understood. */
function readTar(tar) {
  const entries = []
  const string = (at, length) =>
    tar
      .subarray(at, at + length)
      .toString()
      .replace(/\0[\s\S]*$/, '')
  let longName = ''
  let longTarget = ''
  for (let at = 0; at + 512 <= tar.length; ) {
    const name = string(at, 100)
    if (name === '' && longName === '') break
    const size = Number.parseInt(string(at + 124, 12), 8) || 0
    const kind = String.fromCharCode(tar[at + 156])
    const data = tar.subarray(at + 512, at + 512 + size)
    const prefix = string(at + 257, 6) === 'ustar' ? string(at + 345, 155) : ''
    if (kind === 'L') longName = data.toString().replace(/\0+$/, '')
    else if (kind === 'K') longTarget = data.toString().replace(/\0+$/, '')
    else {
      const path = (longName || (prefix ? `${prefix}/${name}` : name)).replace(/^\.?\//, '').replace(/\/$/, '')
      const mode = Number.parseInt(string(at + 100, 8), 8) & 0o7777
      if (kind === '0' || kind === '\0') entries.push({ path, type: 'file', mode, data: Buffer.from(data) })
      else if (kind === '2')
        entries.push({ path, type: 'link', mode: 0o777, target: longTarget || string(at + 157, 100) })
      else if (kind === '5' && path !== '' && path !== '.') entries.push({ path, type: 'directory', mode })
      longName = ''
      longTarget = ''
    }
    at += 512 + Math.ceil(size / 512) * 512
  }
  return entries
}

function must(command, args, options = {}) {
  const done = spawnSync(command, args, { maxBuffer: 256 * 1024 * 1024, ...options })
  if (done.error) throw new Error(`${command}: ${done.error.message}`)
  if (done.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${done.stderr.toString().trim()}`)
  return done.stdout
}

if (process.argv[1] === import.meta.filename) {
  try {
    const { archives, built } = buildImages(process.argv[2])
    for (const file of archives) console.log(`${file}${built ? '' : ' (up to date)'}`)
  } catch (error) {
    console.error(`build-images: ${error.message}`)
    process.exit(1)
  }
}
