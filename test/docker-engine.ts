import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { startOf } from '../src/lab/namespace.ts'
import { Program, run, text } from '../src/lab/program.ts'
import { hasTool, installTools } from '../src/lab/system-tools.ts'

/*
 * A Docker engine of a test's own: everything it keeps is in one folder, nobody else speaks to it, and it makes no bridge, no
 * rules and no address on this machine. Where `dockerd` is not installed, Debian's packages are unpacked beside node_modules
 * instead: installing them would start an engine with a bridge and its rules.
 */
const PACKAGES = ['docker.io', 'containerd', 'runc', 'libdevmapper1.02.1', 'busybox-static']
const UNPACKED = resolve(import.meta.dirname, '../node_modules/.cache/hedgerow-docker')
/** For images that have nothing of this machine. */
export const BUSYBOX = join(UNPACKED, 'bin/busybox')
/** Of what was unpacked; a small Debian has no device mapper of its own. */
const LIBRARIES = ['lib', 'usr/lib'].flatMap((folder) =>
  ['x86_64-linux-gnu', 'aarch64-linux-gnu'].map((triplet) => join(UNPACKED, folder, triplet)),
)
const PREFIX = 'hedgerow-engine'

export type EngineKind = 'docker' | 'podman'

/** Why there can be no engine here, in words for a skip. */
export function lackingEngine(kind: EngineKind = 'docker'): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root'
  if (kind === 'podman' && !hasTool('podman')) return 'needs podman (apt-get install podman netavark aardvark-dns)'
  return isHere() ? undefined : `needs dockerd (${PACKAGES.join(', ')})`
}

/** Fetches the engine if it is not there; says what it does. */
export function fetchEngine(say: (line: string) => void): void {
  if (isHere() || process.getuid?.() !== 0 || !hasTool('apt-get') || !hasTool('dpkg-deb')) return
  const folder = mkdtempSync(join(tmpdir(), 'hedgerow-packages-'))
  try {
    say(`missing dockerd: apt-get download ${PACKAGES.join(' ')}, unpacked into ${UNPACKED}`)
    const download = () =>
      spawnSync('apt-get', ['download', '-qq', ...PACKAGES], { cwd: folder, stdio: 'ignore' }).status
    if (download() !== 0 && (spawnSync('apt-get', ['update'], { stdio: 'ignore' }).status !== 0 || download() !== 0)) {
      return say('apt-get failed')
    }
    mkdirSync(UNPACKED, { recursive: true })
    for (const name of readdirSync(folder)) spawnSync('dpkg-deb', ['--extract', join(folder, name), UNPACKED])
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** It starts nothing by itself, so it is installed as other tools are. */
export function fetchPodman(say: (line: string) => void): void {
  // netavark calls iptables, and does not depend on it
  if (!hasTool('podman') || !hasTool('iptables')) installTools(['podman', 'netavark', 'aardvark-dns', 'iptables'], say)
}

export class Engine implements AsyncDisposable {
  readonly #folder: string
  readonly #begin: () => Program
  #program: Program

  private constructor(folder: string, begin: () => Program) {
    this.#folder = folder
    this.#begin = begin
    this.#program = begin()
  }

  /** Until it is disposed of, `docker` in this process and what it starts means this engine. */
  static async start(kind: EngineKind = 'docker'): Promise<Engine> {
    sweepEngines()
    const folder = mkdtempSync(join(tmpdir(), `${PREFIX}-${process.pid}-${startOf(process.pid)}-`))
    const folders = [join(UNPACKED, 'usr/bin'), join(UNPACKED, 'usr/sbin'), '/usr/sbin', '/sbin']
    process.env['PATH'] = [process.env['PATH'], ...folders].join(delimiter)
    process.env['DOCKER_HOST'] = `unix://${folder}/engine.sock`
    const argv = kind === 'podman' ? podman(folder) : dockerd(folder)
    const env = { LD_LIBRARY_PATH: LIBRARIES.join(delimiter), CONTAINERS_CONF: join(folder, 'containers.conf') }
    // the monitor of a container of Podman's writes `oom` into the folder that it was started in
    const engine = new Engine(folder, () => Program.start(argv, { env, cwd: folder }))
    await engine.#answers()
    return engine
  }

  /** Ends it by this signal and starts it again; one that `keeps` containers takes back those that run (Docker: live-restore). */
  async restart(signal: 'SIGTERM' | 'SIGKILL', { keeps }: { keeps: boolean }): Promise<void> {
    writeFileSync(join(this.#folder, 'daemon.json'), JSON.stringify({ 'live-restore': keeps }))
    this.#program.signal(signal)
    await this.#program.exited
    // its containerd has ended with it, and is taken for one that runs where nobody collects it
    rmSync(join(this.#folder, 'exec/containerd/containerd.pid'), { force: true })
    this.#program = this.#begin()
    await this.#answers()
  }

  async #answers(): Promise<void> {
    const program = this.#program
    while ((await run(['docker', 'version'])).code !== 0) {
      if (program.exit !== undefined) {
        await this[Symbol.asyncDispose]()
        throw new Error(`${program.argv[0]} ended with ${program.exit}: ${program.lines.slice(-5).join('\n')}`)
      }
      await setTimeout(100)
    }
  }

  /** Its socket. */
  get path(): string {
    return join(this.#folder, 'engine.sock')
  }

  /** Imports an image that is busybox and nothing else; `changes` are lines of a Dockerfile. */
  async busybox(name: string, ...changes: string[]): Promise<void> {
    const words = changes.map((change) => `--change '${change}'`).join(' ')
    await text(['sh', '-c', `tar -C ${join(UNPACKED, 'bin')} -c busybox | docker import ${words} - ${name}`])
  }

  /** Names of the containers of labs. */
  async containers(): Promise<string[]> {
    const said = await text(['docker', 'ps', '--all', '--filter', 'label=hedgerow.lab', '--format', '{{.Names}}'])
    return said.split('\n').filter(Boolean).toSorted()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program.stop(20_000)
    end(this.#folder) // Podman keeps what watched its commands for five minutes
    remove(this.#folder)
  }
}

function dockerd(folder: string): [string, ...string[]] {
  writeFileSync(join(folder, 'daemon.json'), '{}')
  const none = '--bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --log-level=warn'
  return [
    'dockerd',
    `--data-root=${folder}/data`,
    `--exec-root=${folder}/exec`,
    `--pidfile=${folder}/engine.pid`,
    `--config-file=${folder}/daemon.json`,
    `--host=unix://${folder}/engine.sock`,
    ...none.split(' '),
  ]
}

/** Its networks need rules of its own; there is a namespace for them. */
function podman(folder: string): [string, ...string[]] {
  // by default it raises the limits of the machine, which root of a small one may not
  const limits = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
  writeFileSync(join(folder, 'containers.conf'), limits)
  const places = ['--root', `${folder}/data`, '--runroot', `${folder}/run`, '--tmpdir', `${folder}/tmp`]
  const networks = ['--network-config-dir', `${folder}/networks`]
  // crun, its own, starts nothing where cgroup v1 and v2 are used at once
  const runc = [join(UNPACKED, 'usr/sbin/runc'), '/usr/sbin/runc', '/usr/bin/runc'].find((path) => existsSync(path))
  const runtime = runc === undefined ? [] : ['--runtime', runc]
  const service = ['system', 'service', '--time', '0', `unix://${folder}/engine.sock`]
  return ['podman', ...places, ...networks, ...runtime, '--cgroup-manager', 'cgroupfs', ...service]
}

/** Ends engines whose tests were killed, and removes what they kept. */
export function sweepEngines(): void {
  if (process.getuid?.() !== 0) return
  for (const name of readdirSync(tmpdir()).filter((one) => one.startsWith(`${PREFIX}-`))) {
    const [pid, start] = name.slice(PREFIX.length + 1).split('-')
    if (startOf(Number(pid)) === start) continue
    const folder = join(tmpdir(), name)
    end(folder)
    remove(folder)
  }
}

/** The processes of an engine, its containers' too: all name its folder. */
function end(folder: string): void {
  for (const pid of readdirSync('/proc').filter((one) => /^\d+$/.test(one))) {
    try {
      if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(folder)) process.kill(Number(pid), 'SIGKILL')
    } catch {
      // it ended meanwhile
    }
  }
}

function remove(folder: string): void {
  const mounts = readFileSync('/proc/mounts', 'utf8').split('\n')
  const ours = mounts.map((line) => line.split(' ')[1] ?? '').filter((path) => path.startsWith(`${folder}/`))
  for (const path of ours.toReversed()) spawnSync('umount', ['--lazy', path])
  rmSync(folder, { recursive: true, force: true })
}

function isHere(): boolean {
  return existsSync(BUSYBOX) && (hasTool('dockerd') || existsSync(join(UNPACKED, 'usr/sbin/dockerd')))
}
