import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, statSync, writeFileSync, chmodSync, mkdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { librariesOf, which } from '../this-machine.ts'
import { run } from '../program.ts'
import { docker, dockerArgv, LAB_LABEL } from './engine.ts'

/*
 * The image of hosts that name none: this machine's own Node, shell and network tools with the libraries they load, each at
 * its own path. Nothing is pulled; it is made once for an engine, and again when one of the files changes.
 *
 *     files ─▶ tar ─▶ docker import ─▶ hedgerow-lab:<hash of the files>
 */
const PROGRAMS = [
  'sh bash env cat ls cp mv rm mkdir rmdir chmod chown install ln touch head tail wc sort uniq tr cut tee',
  'date dd seq sleep timeout true false echo printf test id uname hostname stat readlink dirname basename',
  'mktemp mkfifo mknod nohup setsid nice whoami sha256sum md5sum cmp diff expr yes grep sed awk find xargs',
  'tar gzip ps kill ip ss tc nft ping curl wget dig nc socat iperf3 openssl tcpdump traceroute conntrack',
].flatMap((line) => line.split(' '))
/** Scripts name their shell by these paths; the rest is what programs read. */
const FILES = [
  '/bin/sh',
  '/bin/bash',
  '/usr/bin/env',
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/nsswitch.conf',
  '/etc/services',
  '/etc/protocols',
]
/** Waits for its end, and collects what is left to it meanwhile. */
const IDLE = ['sh', '-c', 'trap "exit 0" TERM INT; sleep infinity & while :; do wait; done']

export interface MachineImage {
  /** Programs beside the usual ones; those that are not here are left out. */
  programs?: readonly string[]
  /** More files and folders of this machine, at the same paths. */
  files?: readonly string[]
}

/** Makes the image of this machine's files unless the engine has it; returns its name. */
export async function imageOfThisMachine({ programs = [], files = [] }: MachineImage = {}): Promise<string> {
  const found = [process.execPath, ...[...PROGRAMS, ...programs].flatMap((program) => which(program) ?? [])]
  const paths = [...new Set([...found, ...found.flatMap(librariesOf), ...FILES.filter(isThere), ...files])]
  const changes = [
    `ENV PATH=${dirname(process.execPath)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
    `LABEL ${LAB_LABEL}=image`,
    `CMD ${JSON.stringify(IDLE)}`,
  ]
  const name = `hedgerow-lab:${hashOf([...paths.map(signOf), ...changes])}`
  const { code } = await run([...dockerArgv(), 'image', 'inspect', name])
  if (code !== 0) await importFiles(name, paths, changes)
  return name
}

async function importFiles(name: string, paths: readonly string[], changes: readonly string[]): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'hedgerow-image-'))
  try {
    writeFileSync(join(folder, 'files'), `${paths.map((path) => path.slice(1)).join('\n')}\n`)
    const made = join(folder, 'made')
    for (const path of ['tmp', 'etc', 'root', 'var/run']) mkdirSync(join(made, path), { recursive: true })
    chmodSync(join(made, 'tmp'), 0o1777)
    writeFileSync(join(made, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n')
    writeFileSync(join(made, 'etc/group'), 'root:x:0:\nuser:x:1000:\n')
    const tar = ['--create', '--dereference', '--file=-', '-C', '/', `--files-from=${join(folder, 'files')}`]
    await pipe(
      ['tar', ...tar, '-C', made, 'tmp', 'root', 'var', 'etc/passwd', 'etc/group'],
      [...dockerArgv(), 'import', ...changes.flatMap((change) => ['--change', change]), '-', name],
    )
    await docker(['image', 'inspect', '--format', '{{.Id}}', name])
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** The output of one command into another. @throws Error when one fails */
function pipe(from: readonly string[], to: readonly string[]): Promise<void> {
  const start = ([file = '', ...argv]: readonly string[], stdio: ['ignore' | 'pipe', 'pipe' | 'ignore', 'pipe']) => {
    const child = spawn(file, argv, { stdio })
    let stderr = ''
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    const ended = new Promise<void>((resolve, reject) => {
      child.on('error', reject)
      child.on('close', (code) =>
        code === 0 ? resolve() : reject(new Error(`${file}: code ${code}: ${stderr.trim()}`)),
      )
    })
    return { child, ended }
  }
  const source = start(from, ['ignore', 'pipe', 'pipe'])
  const sink = start(to, ['pipe', 'ignore', 'pipe'])
  sink.child.stdin?.on('error', () => undefined) // it ended early, and says why by itself
  if (sink.child.stdin !== null) source.child.stdout?.pipe(sink.child.stdin)
  return Promise.all([sink.ended, source.ended]).then(() => undefined)
}

function isThere(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined
}

function signOf(path: string): string {
  const { size, mtimeMs } = statSync(path)
  return `${path} ${size} ${mtimeMs}`
}

function hashOf(lines: readonly string[]): string {
  return createHash('sha256').update(lines.toSorted().join('\n')).digest('hex').slice(0, 16)
}
