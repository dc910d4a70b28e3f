import { createHash } from 'node:crypto'
import { accessSync, constants, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { explain, MeshError } from '../../core/errors.ts'
import { Cgroup, CgroupTree } from '../../core/kit/cgroup.ts'
import type { Controls } from '../../core/kit/cgroup-controls.ts'
import { InstanceUsers, makeHome, removeHomes, uidRange, type UidRange } from './instance-users.ts'
import { tryMounts, type MountTools } from './own-mounts.ts'
import { endGroup } from './process-group.ts'
import type { SecretValue, ServiceSpec } from '../spec.ts'
import type { Trace } from './runtime.ts'
import { SecretFiles } from './secret-files.ts'
import { barrierFor } from './user-access.ts'
import { VolumeFolders, type GivenVolumes } from './volume-folders.ts'

/*
 * What separates the instances of a node from each other and from the agent:
 *
 *     a user of its own      it cannot read the agent's files or another instance's, nor trace or signal them; its sockets
 *                            bear the uid, by which the data plane knows who calls
 *     a /tmp of its own      (own-mounts.ts)
 *     a control group        it cannot leave it, so everything it started ends with it, and keeps to the limits of the document
 *
 * All need root. The user is what counts; in containers there is often no cgroup that may be written to, and nothing may be mounted.
 */

/** `auto`: users where that is possible. */
export type UserSetting = 'auto' | 'separate' | 'agent'

/** What one run has to itself. */
export interface Own {
  readonly uid?: number | undefined
  /** Its HOME and TMPDIR. */
  readonly home?: string | undefined
  readonly cgroup?: Cgroup | undefined
  /** Absent: its /tmp is the machine's. */
  readonly mounts?: { readonly tools: MountTools; readonly home: string } | undefined
  /** The run whose secrets are there as files, and their folder. */
  readonly secrets?: { readonly run: string; readonly path: string } | undefined
  /** Likewise, with the files of the document. */
  readonly files?: { readonly run: string; readonly path: string } | undefined
  readonly volumes?: GivenVolumes | undefined
}

/** What a run is given as files. */
export interface Given {
  readonly secrets: readonly SecretValue[]
  /** By their paths. */
  readonly files: readonly SecretValue[]
}

export interface SeparationOptions {
  setting: UserSetting
  /** `first-last` */
  uids: string
  /** The agent's directory. */
  dir: string
}

export class Separation {
  readonly users: InstanceUsers | undefined
  readonly cgroups: CgroupTree | undefined
  /** `setpriv`, by which no program gets the rights of another user (setuid) any more; `undefined` where it is not installed. */
  readonly setpriv: string | undefined
  /** By these a program gets a /tmp of its own; `undefined` where it cannot. */
  readonly mountTools: MountTools | undefined
  /** Why it cannot, where it has a user of its own. */
  readonly mountReason: string | undefined
  /** Why instances run as the agent's user, where they do. */
  readonly reason: string | undefined
  /** `undefined`: nothing can have secrets. */
  readonly secretFiles: SecretFiles | undefined
  /** `undefined`: nothing can have volumes. */
  readonly volumes: VolumeFolders | undefined
  /** Why they have no control groups. */
  readonly cgroupReason: string | undefined

  private constructor(parts: Partial<Separation>) {
    this.users = parts.users
    this.cgroups = parts.cgroups
    this.setpriv = parts.setpriv
    this.mountTools = parts.mountTools
    this.mountReason = parts.mountReason
    this.reason = parts.reason
    this.cgroupReason = parts.cgroupReason
    this.secretFiles = parts.secretFiles
    this.volumes = parts.volumes
  }

  /** Why limits do not hold, where they do not. */
  get limitReason(): string {
    const [fault] = Object.values(this.cgroups?.faults ?? {})
    return this.cgroupReason ?? fault ?? 'the kernel refused it'
  }

  static none(reason: string): Separation {
    return new Separation({ reason, cgroupReason: reason })
  }

  /** @throws MeshError CONFIG_INVALID where `separate` is impossible */
  static open({ setting, uids, dir }: SeparationOptions): Separation {
    const range = uidRange(uids)
    if (range.first < 1_000 || range.last < range.first) {
      throw new MeshError('CONFIG_INVALID', {
        faults: ['agent.instanceUids: must be two uids from 1000 on, the lower first'],
      })
    }
    const users = setting === 'agent' ? { reason: 'agent.instanceUsers is agent' } : openUsers(range, setting, dir)
    if (setting === 'separate' && !(users instanceof InstanceUsers)) {
      throw new MeshError('CONFIG_INVALID', {
        faults: [`agent.instanceUsers: separate is not possible: ${users.reason}`],
      })
    }
    const name = `hedgerow-${createHash('sha256').update(dir).digest('hex').slice(0, 12)}`
    const cgroups = isRoot() ? CgroupTree.open(name) : { reason: NOT_ROOT }
    return new Separation({
      secretFiles: new SecretFiles(dir, 'programs'),
      volumes: VolumeFolders.of(dir, users instanceof InstanceUsers ? range : undefined),
      ...(users instanceof InstanceUsers
        ? { users, setpriv: onPath('setpriv'), ...findMounts(range.first) }
        : { reason: users.reason }),
      ...(cgroups instanceof CgroupTree ? { cgroups } : { cgroupReason: cgroups.reason }),
    })
  }

  /** For a run that begins. @throws MeshError RUNTIME_FAILED */
  async take(run: string): Promise<Own> {
    const uid = await this.users?.take()
    try {
      return {
        ...(uid === undefined ? {} : { uid, home: makeHome(uid) }),
        ...(this.cgroups === undefined ? {} : { cgroup: this.cgroups.make(run) }),
      }
    } catch (cause) {
      if (uid !== undefined) this.users?.release(uid)
      throw new MeshError('RUNTIME_FAILED', { reason: explain(cause) }, { cause })
    }
  }

  /** Its /tmp is its HOME, where the node can do that. */
  withOwnTmp(own: Own): Own {
    const { mountTools: tools } = this
    return tools === undefined || own.home === undefined ? own : { ...own, mounts: { tools, home: own.home } }
  }

  /** The secrets of a run and its files, which its user alone may read. @throws MeshError RUNTIME_FAILED */
  give(run: string, own: Own, { secrets, files }: Given): Own {
    const { secretFiles } = this
    if (secrets.length === 0 && files.length === 0) return own
    if (secretFiles === undefined)
      throw new MeshError('RUNTIME_FAILED', { reason: 'there can be no secrets and files here' })
    return {
      ...own,
      ...(secrets.length === 0 ? {} : { secrets: { run, path: secretFiles.write(run, secrets, own.uid) } }),
      ...(files.length === 0 ? {} : { files: { run, path: secretFiles.writeFiles(run, files, own.uid) } }),
    }
  }

  /** Its volumes, which its user alone may enter until it ends. @throws MeshError RUNTIME_FAILED */
  async giveVolumes(own: Own, spec: ServiceSpec): Promise<Own> {
    if (spec.volumes === undefined) return own
    if (this.volumes === undefined) throw new MeshError('RUNTIME_FAILED', { reason: 'there can be no volumes here' })
    return { ...own, volumes: await this.volumes.give(spec, own.uid) }
  }

  /** For a run that an earlier agent began: what it had, whatever the configuration says now. */
  keep({ run, uid, cgroup, controls, secrets, files, volumes }: Trace): Own {
    if (typeof uid === 'number') this.users?.keep(uid)
    return {
      ...(typeof uid === 'number' ? { uid } : {}),
      ...(typeof cgroup === 'string' ? { cgroup: new Cgroup(cgroup, controlsIn(controls)) } : {}),
      ...(typeof secrets === 'string' ? { secrets: { run: String(run), path: secrets } } : {}),
      ...(typeof files === 'string' ? { files: { run: String(run), path: files } } : {}),
      ...volumesIn(volumes),
    }
  }

  /** Nothing of the run is left. What cannot be removed now is found by `tidy` of the next agent. */
  async release({ uid, cgroup, secrets, files, volumes }: Own): Promise<void> {
    const { run } = secrets ?? files ?? {}
    if (run !== undefined) this.secretFiles?.remove(run)
    const isClosed = volumes === undefined || this.volumes?.release(volumes) !== false
    if (uid !== undefined) await removeHomes(uid)
    if (uid !== undefined && isClosed) this.users?.release(uid)
    if (cgroup !== undefined && (await isRemoved(cgroup))) this.cgroups?.remove()
  }

  /** Ends and frees what an earlier agent of this directory left and none of these traces names. */
  async tidy(traces: readonly Trace[], sleep: (ms: number) => Promise<void>): Promise<void> {
    const uids = new Set(traces.map(({ uid }) => uid))
    const groups = new Set(traces.map(({ cgroup }) => cgroup))
    this.secretFiles?.tidy(new Set(traces.map(({ run }) => run)))
    const left: Own[] = [
      ...(this.users?.claimed() ?? []).filter((uid) => !uids.has(uid)).map((uid) => ({ uid })),
      ...(this.cgroups?.all() ?? []).filter(({ path }) => !groups.has(path)).map((cgroup) => ({ cgroup })),
    ]
    this.volumes?.tidy(uids)
    for (const uid of (await this.users?.abandoned()) ?? []) await this.release({ uid })
    for (const own of left) {
      const mark = own.cgroup && basename(own.cgroup.path)
      await endGroup({ ...own, mark, graceMs: 0, sleep })
      await this.release(own)
    }
  }
}

/** As `traceOf` wrote it down; what is damaged is nobody's, and `tidy` closes it. */
function volumesIn(text: string | number | undefined): { volumes?: GivenVolumes } {
  try {
    const { path, folders } = JSON.parse(String(text)) as Record<string, unknown>
    if (typeof path !== 'string' || !Array.isArray(folders)) return {}
    return { volumes: { path, folders: folders.filter((folder) => typeof folder === 'string') } }
  } catch {
    return {}
  }
}

/** As `traceOf` wrote it down; an earlier version did not. */
function controlsIn(text: string | number | undefined): Controls {
  try {
    const controls: unknown = typeof text === 'string' ? JSON.parse(text) : {}
    return typeof controls === 'object' && controls !== null ? controls : {}
  } catch {
    return {}
  }
}

/** The kernel needs a moment for what has just been killed. */
async function isRemoved(cgroup: Cgroup): Promise<boolean> {
  for (let tries = 0; tries < 20 && !cgroup.remove(); tries++) await delay(10)
  return cgroup.remove()
}

const NOT_ROOT = 'the agent does not run as root'

function openUsers(range: UidRange, setting: UserSetting, dir: string): InstanceUsers | { reason: string } {
  if (!isRoot()) return { reason: NOT_ROOT }
  try {
    if (!mayChangeUser())
      return { reason: 'the agent may not change users (it lacks CAP_SETUID, CAP_SETGID, CAP_CHOWN or CAP_KILL)' }
    if (!isMapped(range)) return { reason: `the uids ${range.first} to ${range.last} do not exist in this container` }
    const barrier = setting === 'auto' ? barrierFor(range.first, process.execPath) : undefined
    if (barrier !== undefined) return { reason: `Node lies in ${barrier}, which only its owner may enter` }
    return InstanceUsers.open(range, dir)
  } catch (error) {
    return { reason: explain(error) }
  }
}

function findMounts(uid: number): Pick<Separation, 'mountTools'> | Pick<Separation, 'mountReason'> {
  const [unshare, nsenter, setpriv] = ['unshare', 'nsenter', 'setpriv'].map(onPath)
  if (unshare === undefined || nsenter === undefined || setpriv === undefined)
    return { mountReason: 'unshare, nsenter and setpriv (util-linux) are not all installed' }
  const tools = { unshare, nsenter, setpriv }
  const mountReason = tryMounts(tools, uid)
  return mountReason === undefined ? { mountTools: tools } : { mountReason }
}

function isRoot(): boolean {
  return process.geteuid?.() === 0
}

/** CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID of capabilities(7). */
const NEEDED = [0, 5, 6, 7].reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n)

function mayChangeUser(): boolean {
  const [, effective] = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1')) ?? []
  return effective !== undefined && (BigInt(`0x${effective}`) & NEEDED) === NEEDED
}

/** user_namespaces(7): lines of `first inside, first outside, count`. */
function isMapped({ first, last }: UidRange): boolean {
  return ['uid_map', 'gid_map'].every((map) =>
    readFileSync(`/proc/self/${map}`, 'latin1')
      .trim()
      .split('\n')
      .some((line) => {
        const [inside = 0, , count = 0] = line.trim().split(/\s+/).map(Number)
        return inside <= first && last < inside + count
      }),
  )
}

function onPath(name: string): string | undefined {
  return ['/usr/bin', '/bin', '/usr/sbin', '/sbin', '/usr/local/bin']
    .map((dir) => join(dir, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK)
        return true
      } catch {
        return false
      }
    })
}
