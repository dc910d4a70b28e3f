import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readlinkSync, rmdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { ServiceSpec } from '../spec.ts'

/*
 * A program with mounts of its own: its /tmp and /var/tmp are its HOME, which nobody else may enter. Only root may mount, so a shell of
 * root's begins; the environment of the document may tell the loader to run anything, so that shell does not have it. It comes through
 * descriptor 3, to a shell that is the instance's user already:
 *
 *     unshare ─▶ /bin/sh waits ─▶ ulimit ─▶ mount HOME on /tmp ─▶ setpriv ─▶ /bin/sh reads its environment ─▶ cd ─▶ the program
 *     nsenter ─▶ /bin/sh waits ─▶ ulimit ─────────────────────▶ setpriv ─▶ …                                         a command beside it
 *
 * In arguments, everybody on the machine could read it.
 */

/** Programs of util-linux. */
export interface MountTools {
  readonly unshare: string
  readonly nsenter: string
  readonly setpriv: string
}

const WAIT = 'read -r go || exit 125; ulimit $0 2>/dev/null; '
const MOUNT = 'mount --bind "$1" /tmp && mount --bind /tmp /var/tmp || exit 126; shift; exec "$@"'
const ENTER = 'eval "$(cat <&3)"; exec 3<&-; cd -- "$1" || exit 126; shift; exec "$@"'
const PATH = '/usr/sbin:/usr/bin:/sbin:/bin'

/** As `spawn` takes it; `environment` goes to descriptor 3. */
export interface Wrapped {
  file: string
  args: string[]
  cwd: string
  env: Record<string, string>
  environment: string
}

/** Where a program runs, and with what variables. */
export interface Around {
  cwd: string
  environment: Record<string, string>
}

export interface Inside {
  uid: number
  /** Words of ulimit. */
  files: string
  cmd: readonly string[]
}

/** A program of this user whose /tmp is `home`. */
export function withOwnTmp(
  tools: MountTools,
  { home, uid, files, cmd }: Inside & { home: string },
  { cwd, environment }: Around,
): Wrapped {
  const inside = [...asUser(tools, uid), '/bin/sh', '-c', `${ENTER} < /dev/null`, 'sh', cwd, ...cmd]
  const args = [...UNSHARED, '/bin/sh', '-c', `${WAIT}${MOUNT}`, files, home, ...inside]
  return { file: tools.unshare, args, ...clean(environment) }
}

/** A command beside a program that has mounts of its own. */
export function besideOwnTmp(
  tools: MountTools,
  { pid, uid, files, cmd }: Inside & { pid: number },
  { cwd, environment }: Around,
): Wrapped {
  const inside = [...asUser(tools, uid), '/bin/sh', '-c', ENTER, 'sh', cwd, ...cmd]
  const args = [`--mount=/proc/${pid}/ns/mnt`, '--', '/bin/sh', '-c', `${WAIT}exec "$@"`, files, ...inside]
  return { file: tools.nsenter, args, ...clean(environment) }
}

/** Whether a process has mounts that are not the agent's. */
export function hasOwnMounts(pid: number): boolean {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`) !== readlinkSync('/proc/self/ns/mnt')
  } catch {
    return false // it has ended
  }
}

/** What of the machine’s /tmp a document names: a program that is to find it there shares /tmp with the machine. */
export function namedInTmp({ code, workdir = '', cmd, environment }: ServiceSpec): string | undefined {
  const values = environment.map((entry) => entry.slice(entry.indexOf('=') + 1))
  const folder = resolve(code) // without a code it runs where the agent does
  const paths = [folder, workdir, ...cmd, ...values].filter((path) => /^\/(?:var\/)?tmp\/[^\0]/.test(path))
  return paths.find((path) => existsSync(path))
}

/** By doing it once. @returns why programs cannot have mounts of their own */
export function tryMounts(tools: MountTools, uid: number): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'hedgerow-mounts-'))
  try {
    const mount = 'mount --bind "$0" "$0" && exec "$@"'
    const args = [...UNSHARED, '/bin/sh', '-c', mount, folder, ...asUser(tools, uid), 'true']
    const { status, stderr, error } = spawnSync(tools.unshare, args, {
      env: { PATH },
      encoding: 'utf8',
      timeout: 5_000,
    })
    if (status === 0) return undefined
    return error?.message ?? (stderr.trim().split('\n')[0] || `unshare ended with ${status}`)
  } finally {
    rmdirSync(folder)
  }
}

/** What the machine mounts later is seen inside; what is mounted inside is not seen outside. */
const UNSHARED = ['--mount', '--propagation', 'slave']

function asUser({ setpriv }: MountTools, uid: number): string[] {
  return [setpriv, `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups', '--no-new-privs']
}

function clean(environment: Readonly<Record<string, string>>): Pick<Wrapped, 'cwd' | 'env' | 'environment'> {
  // by the mark it is found before it has its environment, too
  const { HEDGEROW_RUN = '' } = environment
  return { cwd: '/', env: { PATH, HEDGEROW_RUN }, environment: exportsOf(environment) }
}

/** For a shell; `command`: a variable that the shell keeps for itself does not end it. */
export function exportsOf(environment: Readonly<Record<string, string>>): string {
  const lines = Object.entries(environment).map(
    ([name, value]) => `command export ${name}='${value.replaceAll("'", String.raw`'\''`)}'\n`,
  )
  return lines.join('')
}
