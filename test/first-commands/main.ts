/**
 * Tries the README's two commands as a newcomer would: in a clean Debian with the distribution's own Node and npm, from a clone.
 *
 *     npm run prove:first-commands                                as root, on Debian; both commands, as a user without rights and as root
 *     npm run prove:first-commands -- --only demo --as user       one command, one user
 *     npm run prove:first-commands -- --suite trixie --keep       another release; keeps the root folder for a look
 *
 *     debootstrap --variant=minbase ─▶ root folder ─▶ apt: nodejs npm git ─▶ clone of HEAD ─▶ chroot: `npm ci && npm run demo`, `npm cit`
 *
 * The chroot has namespaces of its own for processes and mounts, so all that a command leaves behind ends with it. npm and apt
 * reach their registries over this machine's network, with its certificates and settings. The last line counts what passed.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { scriptOptions } from '../../.config/script-options.ts'
import { makeCleanDebian, must } from '../support/clean-debian.ts'

const REPOSITORY = resolve(import.meta.dirname, '../..')
const COMMANDS = { demo: 'npm ci && npm run demo', cit: 'npm cit' } as const
/** The user first: what root's commands install would be there for both. */
const USERS = ['user', 'root'] as const
const COMMAND_MS = 45 * 60_000

const values = scriptOptions({
  name: 'npm run prove:first-commands',
  about:
    'Tries the two commands of the README in a clean Debian with its own Node and npm; as root, on Debian or Ubuntu.',
  options: {
    only: { kind: 'text', meaning: `one command: ${Object.keys(COMMANDS).join(' or ')}` },
    as: { kind: 'text', meaning: `one user: ${USERS.join(' or ')}` },
    suite: { kind: 'text', default: 'bookworm', meaning: 'the release of Debian' },
    keep: { kind: 'flag', meaning: 'keeps the root folder for a look' },
  },
})

if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) {
  console.log('prove:first-commands needs root on Debian or Ubuntu')
  process.exit(1)
}
const folder = mkdtempSync(join(tmpdir(), 'hedgerow-clean-root-'))
const root = join(folder, 'root')
const results: { label: string; ok: boolean }[] = []
try {
  install()
  const node = inside('root', 'node --version && npm --version').stdout.split('\n')
  console.log(`${values.suite}: Node ${node[0]}, npm ${node[1]}`)
  for (const user of USERS.filter((user) => values.as === undefined || values.as === user)) {
    for (const [name, command] of Object.entries(COMMANDS)) {
      if (values.only !== undefined && values.only !== name) continue
      await attempt(user, name, command)
    }
  }
} finally {
  if (values.keep) console.log(`kept: ${root}`)
  else rmSync(folder, { recursive: true, force: true })
}
const failed = results.filter(({ ok }) => !ok)
for (const { label, ok } of results) console.log(`${ok ? 'ok     ' : 'NOT OK '} ${label}`)
console.log(`${results.length - failed.length} passed, ${failed.length} failed`)
process.exitCode = failed.length === 0 && results.length > 0 ? 0 : 1

/** A clean system with what the distribution calls node and npm, git, and a user without rights. */
function install(): void {
  makeCleanDebian({ root, suite: values.suite, packages: ['nodejs', 'npm', 'git', 'ca-certificates'] })
  must(['chroot', root, 'useradd', '--create-home', 'user'])
}

async function attempt(user: (typeof USERS)[number], name: string, command: string): Promise<void> {
  const label = `${command}   as ${user}`
  console.log(`\n▶ ${label}`)
  const home = user === 'root' ? '/root' : '/home/user'
  const clone = `${home}/hedgerow-${name}`
  must(['git', 'clone', '--quiet', REPOSITORY, join(root, clone)])
  if (user !== 'root') must(['chroot', root, 'chown', '-R', 'user:user', clone])
  const startedAt = performance.now()
  const code = await follow(argvInside(user, `cd ${clone} && ${command}`))
  const seconds = ((performance.now() - startedAt) / 1_000).toFixed(0)
  results.push({ label: `${label}   ${seconds} s, exit code ${code}`, ok: code === 0 })
}

function inside(user: (typeof USERS)[number], command: string) {
  const [program = '', ...argv] = argvInside(user, command)
  return spawnSync(program, argv, { encoding: 'utf8' })
}

/**
 * Process and mount namespaces of its own, with the machine's /proc, /sys and /dev, which the lab's namespaces need.
 * The root is a mount point entered by pivot_root: under a plain chroot `ip netns exec` cannot make / a slave mount.
 */
function argvInside(user: (typeof USERS)[number], command: string): string[] {
  const certificates = '/etc/ssl/certs/ca-certificates.crt'
  const env = [
    `NODE_EXTRA_CA_CERTS=${certificates}`,
    `npm_config_cafile=${certificates}`,
    `SSL_CERT_FILE=${certificates}`,
  ]
  const steps = [
    `mount --bind ${root} ${root}`,
    `cd ${root}`,
    'mount -t proc proc proc',
    'mount --rbind /sys sys',
    'mount --rbind /dev dev',
    'mount -t tmpfs tmpfs run',
    'mkdir -p .old-root',
    'pivot_root . .old-root',
  ]
  const shell = ['/bin/su', '-', user, '-c', `export ${env.join(' ')}; ${command}`]
  const script = `${steps.join(' && ')} && exec chroot . sh -c 'umount -l /.old-root; exec "$@"' sh "$@"`
  return ['unshare', '--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', script, 'sh', ...shell]
}

function follow([program = '', ...argv]: string[]): Promise<number | string> {
  const child = spawn(program, argv, { stdio: ['ignore', 'inherit', 'inherit'] })
  const limit = setTimeout(() => child.kill('SIGKILL'), COMMAND_MS)
  return new Promise((resolve) => {
    child.on('close', (code, signal) => {
      clearTimeout(limit)
      resolve(code ?? signal ?? 'no exit code')
    })
  })
}
