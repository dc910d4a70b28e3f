import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { run, text, type Result } from '../../src/lab/program.ts'

/*
 * A Debian that boots: systemd as process 1 in namespaces of its own, in a cgroup of its own. What it changes is in an overlay, so that
 * two machines share one root folder, and one that boots again finds its files.
 *
 *     root folder ─┐
 *     NAME/upper ──┴─ overlay ─▶ pivot_root ─▶ /sbin/init
 */

const BOOT_MS = 30_000
const COMMAND_MS = 90_000
const POLL_MS = 100
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Mounts what systemd expects of a container manager (systemd.io/CONTAINER_INTERFACE), and becomes it. */
const BOOT = `set -eu
base=$1 own=$2 group=$3
echo $$ > $group/cgroup.procs
exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child sh -euc '
base=$1 own=$2
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=$base,upperdir=$own/upper,workdir=$own/work $own/root
cd $own/root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd; ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p .before; pivot_root . .before; umount -l /.before
exec env -i container=hedgerow-test PATH=${PATH} /sbin/init
' sh "$base" "$own"`

/** Of folders and groups; the id of this process follows. */
export const PREFIX = 'hedgerow-systemd-'

export class Machine {
  readonly name: string
  readonly #base: string
  readonly #folder: string
  #pid = 0
  #exited: Promise<unknown> = Promise.resolve()

  constructor(name: string, base: string, folder: string) {
    this.name = name
    this.#base = base
    this.#folder = join(folder, name)
    for (const part of ['upper', 'work', 'root']) mkdirSync(join(this.#folder, part), { recursive: true })
  }

  /** Until systemd takes commands. */
  async boot(): Promise<void> {
    const group = this.#group
    mkdirSync(group, { recursive: true })
    const argv = ['-c', BOOT, 'sh', this.#base, this.#folder, group]
    const outer = spawn('sh', argv, { stdio: ['ignore', 'ignore', 'pipe'], detached: true })
    let said = ''
    outer.stderr.on('data', (chunk) => (said += chunk))
    this.#exited = new Promise((resolve) => outer.once('exit', resolve))
    for (const startedAt = performance.now(); performance.now() - startedAt < BOOT_MS; await sleep(POLL_MS)) {
      if (outer.exitCode !== null) throw new Error(`${this.name} did not boot: ${said}`)
      this.#pid = childOf(outer.pid ?? 0)
      if (this.#pid === 0) continue
      const { stdout } = await this.run('systemctl is-system-running')
      if (/starting|running|degraded/.test(stdout)) return // units may wait for the network that comes next
    }
    throw new Error(`${this.name} did not boot in ${BOOT_MS / 1_000} s: ${said}`)
  }

  /** A cable to another machine; both have booted. */
  async connect(address: string, to: Machine, itsAddress: string): Promise<void> {
    const network = ['nsenter', '-t', String(this.#pid), '-n']
    await text([...network, ...`ip link add eth0 type veth peer name eth0 netns ${to.#pid}`.split(' ')])
    await this.must(`ip address add ${address} dev eth0 && ip link set eth0 up`)
    await to.must(`ip address add ${itsAddress} dev eth0 && ip link set eth0 up`)
  }

  /** As root, in the clone. */
  run(commands: string): Promise<Result> {
    const enter = ['nsenter', '-t', String(this.#pid), '-a', 'env', '-i', `PATH=${PATH}`, 'HOME=/root', 'LANG=C.UTF-8']
    // a session of its own: `kill 0` must not reach this process
    const argv = [...enter, 'setsid', '--wait', 'timeout', '--kill-after=5', String(COMMAND_MS / 1_000 - 10)]
    return run([...argv, 'bash', '--norc', '-euc', `cd /srv/hedgerow\n${commands}`], { timeoutMs: COMMAND_MS })
  }

  /** What it prints. @throws Error when a command fails */
  async must(commands: string): Promise<string> {
    const { code, stdout, stderr } = await this.run(commands)
    if (code === 0) return stdout.trim()
    throw new Error(`${this.name}: ${commands.trim()}\n  exit code ${code}: ${`${stdout}\n${stderr}`.trim()}`)
  }

  /** Until the command prints this. */
  async until(commands: string, wanted: string | RegExp, ms = 30_000): Promise<string> {
    let last = ''
    for (const startedAt = performance.now(); performance.now() - startedAt < ms; await sleep(POLL_MS)) {
      const { stdout, stderr } = await this.run(commands)
      last = stdout.trim()
      if (typeof wanted === 'string' ? last === wanted : wanted.test(last)) return last
      last ||= stderr.trim()
    }
    throw new Error(`${this.name}: ${commands} did not print ${wanted} within ${ms / 1_000} s, but: ${last}`)
  }

  /** As when the power fails. */
  async off(): Promise<void> {
    if (this.#pid !== 0) {
      try {
        process.kill(this.#pid, 'SIGKILL')
      } catch {} // it has ended
    }
    await this.#exited
    this.#pid = 0
    for (let tries = 0; tries < 50 && !removeGroup(this.#group); tries++) await sleep(POLL_MS)
  }

  get #group(): string {
    return join(cgroupRoot() ?? '', `${PREFIX}${process.pid}-${this.name}`)
  }
}

/** Where cgroups of version 2 are mounted and may be made. */
export function cgroupRoot(): string | undefined {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n')
  return mounts
    .map((line) => line.split(' '))
    .find(([, , type, options]) => type === 'cgroup2' && options?.startsWith('rw'))?.[1]
}

/** Groups and folders of runs that were killed. */
export function sweep(): void {
  const isLeft = (name: string) =>
    name.startsWith(PREFIX) && !existsSync(`/proc/${name.slice(PREFIX.length).split('-')[0]}`)
  const root = cgroupRoot() ?? ''
  for (const name of readdirSync(root).filter(isLeft)) removeGroup(join(root, name))
  for (const name of readdirSync(tmpdir()).filter(isLeft))
    rmSync(join(tmpdir(), name), { recursive: true, force: true })
}

function removeGroup(path: string): boolean {
  if (!existsSync(path)) return true
  try {
    writeFileSync(join(path, 'cgroup.kill'), '1')
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (entry.isDirectory()) removeGroup(join(path, entry.name))
    }
    rmdirSync(path)
    return true
  } catch {
    return false // its processes have not ended yet
  }
}

/** Process 1 of the namespace that `unshare` made. */
function childOf(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0])
  } catch {
    return 0
  }
}
