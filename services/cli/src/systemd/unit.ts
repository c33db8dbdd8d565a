/** The unit that runs a machine under systemd, and the kernel's settings for it. Pure text. */

export interface UnitOptions {
  role: 'master' | 'node'
  name: string
  /** Absolute. */
  data: string
  /** Absolute path of node. */
  node: string
  /** Absolute path of the program `capstan`. */
  program: string
}

export const unitName = (role: 'master' | 'node') => `capstan-${role}.service`

/** One word of a command line in a unit: specifiers, variables and blanks lose their meaning. */
export function unitWord(text: string): string {
  // A line break would begin a new setting, and no file that is meant has one.
  if (/[\0\r\n]/.test(text)) throw new RangeError(`not a word for a unit: ${JSON.stringify(text)}`)
  const plain = text.replaceAll('%', '%%').replaceAll('$', '$$$$')
  return /[\s"'\\;]/.test(plain) ? `"${plain.replace(/["\\]/g, '\\$&')}"` : plain
}

/** A path in a list of paths, where no variables are known. */
const unitPath = (text: string) => unitWord(text).replaceAll('$$', '$')

export function unitText(options: UnitOptions): string {
  const { role, name, node, program, data } = options
  const command = [node, `--max-semi-space-size=${role === 'master' ? 8 : 4}`, program, 'serve', '--data', data]
  // A node's pods outlive its agents, as they outlive a crash of theirs.
  if (role === 'node') command.push('--keep-pods')
  return `# Made by "capstan install systemd". Changes belong into a drop-in: systemctl edit ${unitName(role)}
[Unit]
Description=Capstan ${role} ${name.replaceAll('%', '%%')}
Wants=network-online.target
After=network-online.target time-sync.target
# A ${role} is to come back for as long as it takes.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=${command.map(unitWord).join(' ')}
Restart=always
RestartSec=1
TimeoutStopSec=30
LimitNOFILE=65536
UMask=0077
${role === 'master' ? masterSettings(options) : NODE_SETTINGS}
[Install]
WantedBy=multi-user.target
`
}

function masterSettings({ data, node, program }: UnitOptions): string {
  const inHome = [data, node, program].some((path) => /^\/(home|root|run\/user)\//.test(path))
  return `# Its own process ends its store and its bus in order; what is left after TimeoutStopSec is killed.
KillMode=mixed
OOMScoreAdjust=-900
CPUWeight=1000
IOWeight=1000

# What it may touch: its directory, the network's addresses and routes, and its store's and bus's place before other processes.
ReadWritePaths=${unitPath(data)}
CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_NICE CAP_DAC_OVERRIDE
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=${inHome ? 'read-only' : 'yes'}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
# No MemoryDenyWriteExecute: V8 compiles.
`
}

const NODE_SETTINGS = `# Containers, their shims and the guard go on when the unit restarts; a stopped machine is emptied first: capstan node drain.
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNPROC=infinity
LimitCORE=infinity
OOMScoreAdjust=-900

# No file system namespace (ProtectSystem, PrivateTmp, ReadWritePaths): mounts of containers made in one life would not be seen
# in the next. No NoNewPrivileges and no CapabilityBoundingSet: containers inherit both, whatever their pods ask for.
`

export const SYSCTL_FILE = 'etc/sysctl.d/90-capstan.conf'
export const SYSCTL_TEXT = `# Made by "capstan install systemd": packets of pods and Services pass this machine, and are seen by its packet rules on bridges too.
net.ipv4.ip_forward = 1
-net.bridge.bridge-nf-call-iptables = 1
`

export const MODULES_FILE = 'etc/modules-load.d/capstan.conf'
export const MODULES = { master: ['nf_tables'], node: ['br_netfilter', 'nf_tables', 'overlay', 'veth'] }

/** What would keep the unit from starting. For people; empty: nothing. */
export function unitFaults(text: string, exists: (path: string) => boolean): string[] {
  const faults: string[] = []
  const start = /^ExecStart=(.*)$/m.exec(text)?.[1] ?? ''
  const words = [...start.matchAll(/"((?:\\.|[^"\\])*)"|(\S+)/g)].map((match) =>
    (match[1]?.replace(/\\(.)/g, '$1') ?? match[2] ?? '').replaceAll('%%', '%').replaceAll('$$', '$'),
  )
  for (const path of words.filter((word, at) => at === 0 || word.startsWith('/')))
    if (!path.startsWith('/')) faults.push(`ExecStart: ${path} is no absolute path`)
    else if (!exists(path)) faults.push(`ExecStart: ${path} does not exist`)
  for (const line of text.split('\n'))
    if (line !== '' && !/^(#|\[(Unit|Service|Install)\]$|[A-Z][A-Za-z]+=)/.test(line))
      faults.push(`no setting: ${line}`)
  return faults
}
