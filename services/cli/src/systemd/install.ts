/** `capstan install systemd`: the machine of a directory as a unit. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { Progress, UserError } from '../console.js'
import { programPath } from '../programs.js'
import { isRoot, must, run } from '../shell.js'
import { MODULES, MODULES_FILE, SYSCTL_FILE, SYSCTL_TEXT, unitFaults, unitName, unitText } from './unit.js'

export interface InstallOptions {
  data: string
  /** Where the files are put; the host's own: `/`. */
  root: string
  start: boolean
}

/** @throws UserError if the directory holds no machine, or what the unit needs is not there */
export async function installSystemd(options: InstallOptions): Promise<void> {
  const progress = new Progress()
  const { role, name } = machineOf(options.data)
  const text = unitText({ role, name, data: options.data, node: process.execPath, program: programPath('capstan') })
  const faults = unitFaults(text, existsSync)
  if (faults.length > 0) throw new UserError(`the unit would not start: ${faults.join('; ')}`)
  const unit = unitName(role)
  const isHost = resolve(options.root) === '/'
  if (isHost && !isRoot()) throw new UserError('only root may write units; --root writes them elsewhere')
  const put = (path: string, content: string) => {
    const file = join(options.root, path)
    if (existsSync(file) && readFileSync(file, 'utf8') === content) return progress.step(`${file} is as it should be`)
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, content, { mode: 0o644 })
    progress.step(`wrote ${file}`)
  }
  put(`etc/systemd/system/${unit}`, text)
  put(SYSCTL_FILE, SYSCTL_TEXT)
  put(MODULES_FILE, `# Made by "capstan install systemd".\n${MODULES[role].join('\n')}\n`)
  const verified = await run('systemd-analyze', ['verify', join(options.root, `etc/systemd/system/${unit}`)])
  // 127: there is none here; what else it says is worth reading, but of other units too.
  if (verified.code !== 0 && verified.code !== 127) progress.warn(verified.stderr.trim())

  const systemdRuns = existsSync('/run/systemd/system')
  if (!isHost || !options.start || !systemdRuns) {
    const why = !isHost
      ? `these files belong to ${options.root}`
      : systemdRuns
        ? '--no-start'
        : 'systemd does not run here'
    return progress.done(
      `${unit} is ready, not started (${why}): systemctl daemon-reload && systemctl enable --now ${unit}`,
    )
  }
  for (const module of MODULES[role])
    if ((await run('modprobe', [module])).code !== 0) progress.warn(`the kernel module ${module} cannot be loaded`)
  await run('sysctl', ['-q', '-p', `/${SYSCTL_FILE}`])
  await must('systemctl', ['daemon-reload'])
  await must('systemctl', ['enable', '--now', unit])
  progress.done(`${unit} runs: systemctl status ${unit}, journalctl -u ${unit}`)
}

/** Before its machine is stopped: the unit would start it again. False: there is none. */
export async function stopUnit(role: 'master' | 'node', { forGood } = { forGood: false }): Promise<boolean> {
  const unit = unitName(role)
  if (!existsSync('/run/systemd/system') || !existsSync(`/etc/systemd/system/${unit}`)) return false
  const ran = await run('systemctl', forGood ? ['disable', '--now', unit] : ['stop', unit], { timeoutMs: 60_000 })
  if (ran.code !== 0) throw new UserError(`systemctl cannot stop ${unit}: ${ran.stderr.trim()}`)
  if (forGood) rmSync(`/etc/systemd/system/${unit}`)
  return true
}

function machineOf(data: string): { role: 'master' | 'node'; name: string } {
  const file = join(data, 'machine.json')
  if (!existsSync(file))
    throw new UserError(
      `${data} holds no machine: make one by capstan master init, master join or node join, each with --no-start`,
    )
  return JSON.parse(readFileSync(file, 'utf8')) as { role: 'master' | 'node'; name: string }
}
