import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

export interface CleanDebian {
  /** The folder it is made in. */
  root: string
  /** A release of Debian, or one of Ubuntu. */
  suite: string
  packages: readonly string[]
}

const UBUNTU = ['jammy', 'noble', 'resolute']
const SCRIPTS = '/usr/share/debootstrap/scripts'

/**
 * Where a release is from. Of Ubuntu, Debian’s debootstrap knows older releases only, and all are made alike; nor does Debian have its key,
 * so that the signature stays unchecked: good enough for a folder that is thrown away.
 */
function sourceOf(suite: string): string[] {
  if (!UBUNTU.includes(suite)) return ['http://deb.debian.org/debian']
  const mirror = process.arch === 'x64' ? 'http://archive.ubuntu.com/ubuntu' : 'http://ports.ubuntu.com/ubuntu-ports'
  return [mirror, join(SCRIPTS, existsSync(join(SCRIPTS, suite)) ? suite : 'gutsy')]
}

/** A minimal Debian or Ubuntu in a folder, which reaches npm and apt as this machine does: its name servers, certificates and settings. */
export function makeCleanDebian({ root, suite, packages }: CleanDebian): void {
  if (!existsSync('/usr/sbin/debootstrap')) installDebootstrap()
  console.log(`debootstrap ${suite}`)
  must(['debootstrap', '--variant=minbase', suite, root, ...sourceOf(suite)])
  for (const path of ['/etc/resolv.conf', '/etc/ssl/certs', '/etc/npmrc', '/usr/etc/npmrc', '/etc/apt/apt.conf.d'])
    copyInto(root, path)
  writeFileSync(join(root, 'etc/hosts'), '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n') // as the installer does
  if (packages.length === 0) return
  must(['chroot', root, 'apt-get', 'update'])
  must(['chroot', root, 'apt-get', 'install', '-y', '--no-install-recommends', ...packages])
  copyInto(root, '/etc/ssl/certs')
}

/** A machine that is new has no list of packages. Somebody else may be installing. */
function installDebootstrap(): void {
  const patient = ['apt-get', '-o', 'DPkg::Lock::Timeout=120']
  const install = [...patient, 'install', '-y', '--no-install-recommends', 'debootstrap']
  try {
    must(install)
  } catch {
    must([...patient, 'update'])
    must(install)
  }
}

/** @throws Error with the last lines that the command printed */
export function must([program = '', ...argv]: readonly string[], env: NodeJS.ProcessEnv = {}): string {
  const { status, stdout, stderr } = spawnSync(program, argv, {
    encoding: 'utf8',
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', ...env },
  })
  if (status === 0) return stdout
  throw new Error(`${[program, ...argv].join(' ')}: ${`${stdout}\n${stderr}`.trim().split('\n').slice(-15).join('\n')}`)
}

function copyInto(root: string, path: string): void {
  if (!existsSync(path)) return
  mkdirSync(dirname(join(root, path)), { recursive: true })
  cpSync(path, join(root, path), { recursive: true, dereference: true, force: true })
}
