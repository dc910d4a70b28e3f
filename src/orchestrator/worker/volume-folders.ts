import { createHash, randomBytes } from 'node:crypto'
import { chmodSync, chownSync, existsSync, lstatSync, mkdirSync, readdirSync, renameSync } from 'node:fs'
import { lchown, lstat, readdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { explain, MeshError } from '../../core/errors.ts'
import type { ServiceSpec } from '../spec.ts'
import { folderSize } from './folder-size.ts'
import type { UidRange } from './instance-users.ts'
import type { RuntimeVolumes } from './runtime.ts'

/*
 * Volumes of programs: a folder for each name of an app, which outlives its instances.
 *
 *     <folder>/               0711, the agent's
 *         shop.acme/          0711, the agent's; $HEDGEROW_VOLUMES of the app's programs
 *         .removed-…/        what an operator has removed, while its files go
 *             data/           0700, of the user of the run that has it; while none has it, of the agent, and its group is the last user's
 *
 * A run has a user that another run had before it, so what is in a volume passes to the next user before it starts. Only what belonged to a user of
 * instances does: a program may have made hard links to files of others.
 */

/** What a run has, by its paths. */
export interface GivenVolumes {
  /** $HEDGEROW_VOLUMES */
  readonly path: string
  readonly folders: readonly string[]
}

type Volumes = Pick<ServiceSpec, 'app' | 'appNamespace' | 'volumes'>

const REMOVED = '.removed-'

/** Where root keeps them: users of instances may not enter the agent's directory. */
const SHARED = '/var/lib/hedgerow-volumes'

export class VolumeFolders implements RuntimeVolumes {
  readonly #folder: string
  readonly #range: UidRange | undefined
  readonly #agent = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }

  /** `range`: the users of instances, where they have users of their own. */
  constructor(folder: string, range: UidRange | undefined) {
    this.#folder = folder
    this.#range = range
  }

  /** Of the agent with this directory. */
  static of(dir: string, range: UidRange | undefined): VolumeFolders {
    const digest = createHash('sha256').update(dir).digest('hex').slice(0, 12)
    return new VolumeFolders(process.getuid?.() === 0 ? join(SHARED, digest) : join(dir, 'volumes'), range)
  }

  /** For a run that begins, as this user. @throws MeshError RUNTIME_FAILED */
  async give(spec: Volumes, uid: number | undefined): Promise<GivenVolumes | undefined> {
    const { app, appNamespace, volumes = [] } = spec
    if (volumes.length === 0) return undefined
    const path = join(this.#folder, `${app}.${appNamespace}`)
    const folders = [...new Set(volumes.map(({ name }) => join(path, name)))]
    try {
      for (const each of [dirname(this.#folder), this.#folder, path]) makeEntered(each)
      for (const folder of folders) {
        mkdirSync(folder, { recursive: true, mode: 0o700 })
        if (uid !== undefined) await this.#passOn(folder, uid)
      }
      return { path, folders }
    } catch (cause) {
      this.release({ path, folders })
      throw new MeshError('RUNTIME_FAILED', { reason: `its volumes cannot be used: ${explain(cause)}` }, { cause })
    }
  }

  /** Its user may be another's soon. False: one could not be closed (a disk that is read-only), and its user must not be another's. */
  release({ folders }: GivenVolumes): boolean {
    return folders.map((folder) => this.#isClosed(folder)).every(Boolean)
  }

  /** Closes those of users that no run has any more. */
  tidy(uids: ReadonlySet<unknown>): void {
    for (const name of this.#names()) {
      const folder = this.#folderOf(name)
      if (!uids.has(ownerOf(folder))) this.#isClosed(folder)
    }
    for (const name of namesIn(this.#folder)) if (name.startsWith(REMOVED)) this.#erase(join(this.#folder, name))
  }

  async list(): Promise<string[]> {
    return this.#names()
  }

  async sizes(names: readonly string[], signal: AbortSignal): Promise<ReadonlyMap<string, number>> {
    const sizes = new Map<string, number>()
    for (const name of names) {
      const bytes = await folderSize(this.#folderOf(name), signal)
      if (bytes !== undefined) sizes.set(name, bytes)
    }
    return sizes
  }

  /** It is gone at once, and its files soon after, also when the agent ends meanwhile. */
  async remove(name: string, isFree: () => void): Promise<void> {
    if (!this.#names().includes(name)) throw new MeshError('VOLUME_UNKNOWN', { volume: name })
    isFree()
    const removed = join(this.#folder, `${REMOVED}${randomBytes(6).toString('hex')}`)
    try {
      renameSync(this.#folderOf(name), removed)
    } catch (cause) {
      throw new MeshError('REQUEST_FAILED', { volume: name, reason: explain(cause) }, { cause })
    }
    this.#erase(removed)
  }

  #erase(removed: string): void {
    void rm(removed, { recursive: true, force: true }).catch(() => undefined) // the next start tries again
  }

  #folderOf(name: string): string {
    const [app, namespace, volume = ''] = name.split('.')
    return join(this.#folder, `${app}.${namespace}`, volume)
  }

  /** An app’s folder that has no volume left is none of them. */
  #names(): string[] {
    return namesIn(this.#folder).flatMap((app) =>
      app.startsWith(REMOVED) ? [] : namesIn(join(this.#folder, app)).map((name) => `${app}.${name}`),
    )
  }

  #isClosed(folder: string): boolean {
    const uid = ownerOf(folder)
    if (uid === undefined || uid === this.#agent.uid) return true
    try {
      chownSync(folder, this.#agent.uid, uid)
      chmodSync(folder, 0o700) // its user may have opened it to others
      return true
    } catch {
      return false
    }
  }

  async #passOn(folder: string, uid: number): Promise<void> {
    const { gid } = await lstat(folder)
    // one that no user of instances has had yet was filled by the agent's, or by its operator
    const isFirst = !this.#isOfInstances(gid)
    const passes = (owner: number) => this.#isOfInstances(owner) || (isFirst && owner === this.#agent.uid)
    for (const name of await readdir(folder)) await passOn(join(folder, name), passes, uid)
    await lchown(folder, uid, uid)
  }

  #isOfInstances(uid: number): boolean {
    return this.#range !== undefined && this.#range.first <= uid && uid <= this.#range.last
  }
}

async function passOn(path: string, passes: (owner: number) => boolean, uid: number): Promise<void> {
  const found = await lstat(path)
  if (found.uid !== uid && passes(found.uid)) await lchown(path, uid, uid)
  if (found.isDirectory()) for (const name of await readdir(path)) await passOn(join(path, name), passes, uid)
}

/** By others, too, whatever the umask is; one that is there stays as it is. */
function makeEntered(path: string): void {
  if (existsSync(path)) return
  mkdirSync(path)
  chmodSync(path, 0o711)
}

/** `undefined`: it is not there. */
function ownerOf(path: string): number | undefined {
  try {
    return lstatSync(path).uid
  } catch {
    return undefined
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return [] // there is none yet
  }
}
