import { createHash } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
  type Stats,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { explain, MeshError } from '../../core/errors.ts'
import type { SecretValue } from '../spec.ts'

/*
 * Secrets, and the files of documents, in memory. They are never on a disk (but where the machine swaps), and go with their run; a start of the machine
 * leaves none.
 *
 *     /run/hedgerow/secrets/<agent>/              0711, the agent's
 *         programs/                               0711       containers/           0700: nobody of this machine gets in,
 *             <run>/        0500, the instance's user            <run>/     0555   and a container sees the inner folder alone,
 *                 db-password       0400                             …      0444   whatever user it runs as
 *             <run>.files/          likewise, by the path that the document gives them: etc/cart/config.yaml
 */

/** Who reads them. */
export type SecretReaders = 'programs' | 'containers'

/** Of the folder beside that of the secrets; runs have no dot in their names. */
const FILES = '.files'

/** statfs(2): tmpfs and ramfs. */
const IN_MEMORY = new Set([0x01021994, 0x858458f6])

export class SecretFiles {
  readonly #digest: string
  readonly #kind: SecretReaders

  /** `dir`: the agent's, by which its files are known. */
  constructor(dir: string, kind: SecretReaders) {
    this.#digest = createHash('sha256').update(dir).digest('hex').slice(0, 12)
    this.#kind = kind
  }

  /** The folder with the secrets of a run. @throws MeshError RUNTIME_FAILED */
  write(run: string, secrets: readonly SecretValue[], uid?: number): string {
    return this.#fill(run, run, secrets, uid)
  }

  /** The folder with the files that the document of a run has; their names are paths in it. @throws MeshError RUNTIME_FAILED */
  writeFiles(run: string, files: readonly SecretValue[], uid?: number): string {
    return this.#fill(run, `${run}${FILES}`, files, uid)
  }

  #fill(run: string, name: string, files: readonly SecretValue[], uid: number | undefined): string {
    try {
      const path = join(this.#folder(), name)
      mkdirSync(path, { mode: 0o700 })
      const folders = new Set([path])
      for (const { name, value } of files) {
        const file = join(path, name)
        mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
        for (let at = dirname(file); at !== path; at = dirname(at)) folders.add(at)
        writeFileSync(file, value, { flag: 'wx', mode: 0o600 })
        if (uid !== undefined) chownSync(file, uid, uid)
        chmodSync(file, this.#kind === 'containers' ? 0o444 : 0o400)
      }
      for (const folder of folders) {
        if (uid !== undefined) chownSync(folder, uid, uid)
        chmodSync(folder, this.#kind === 'containers' ? 0o555 : 0o500)
      }
      return path
    } catch (cause) {
      this.remove(run)
      throw new MeshError('RUNTIME_FAILED', { reason: `its files cannot be written: ${explain(cause)}` }, { cause })
    }
  }

  /** Nothing happens where there are none. */
  remove(run: string): void {
    for (const base of bases()) {
      for (const name of [run, `${run}${FILES}`]) {
        const path = join(base, this.#digest, this.#kind, name)
        if (lstatSync(path, { throwIfNoEntry: false }) === undefined) continue
        open(path) // else only root could empty it
        rmSync(path, { recursive: true, force: true })
      }
    }
  }

  /** Removes those of runs that are not among these. */
  tidy(runs: ReadonlySet<unknown>): void {
    for (const base of bases())
      for (const name of namesIn(join(base, this.#digest, this.#kind))) {
        const [run = name] = name.split('.')
        if (!runs.has(run)) this.remove(run)
      }
  }

  /** @throws MeshError RUNTIME_FAILED, the system's error */
  #folder(): string {
    let fault: unknown
    for (const base of bases().filter(isInMemory)) {
      const own = join(base, this.#digest)
      const folder = join(own, this.#kind)
      try {
        makeOurs(base, 0o711)
        makeOurs(own, 0o711)
        makeOurs(folder, this.#kind === 'containers' ? 0o700 : 0o711)
        return folder
      } catch (error) {
        fault = error
      }
    }
    throw fault ?? new Error(`the node has no file system in memory at ${bases().join(' or ')}`)
  }
}

/** Where files can be kept in memory, the best first; with the user, since others may make folders in /dev/shm. */
function bases(): string[] {
  const uid = process.getuid?.() ?? 0
  const shared = `/dev/shm/hedgerow-secrets-${uid}`
  return uid === 0 ? ['/run/hedgerow/secrets', shared] : [`/run/user/${uid}/hedgerow-secrets`, shared]
}

/** Of the nearest folder above that is there. */
function isInMemory(path: string): boolean {
  for (let at = path; at !== '/'; at = join(at, '..')) {
    try {
      return IN_MEMORY.has(statfsSync(at).type)
    } catch {
      // the next one
    }
  }
  return false
}

function makeOurs(path: string, mode: number): void {
  mkdirSync(path, { recursive: true, mode })
  const found: Stats = lstatSync(path)
  if (!found.isDirectory() || found.uid !== process.getuid?.()) throw new Error(`${path} belongs to another user`)
  chmodSync(path, mode)
}

/** Folders of a run, with all in them. */
function open(path: string): void {
  chmodSync(path, 0o700)
  for (const entry of readdirSync(path, { withFileTypes: true })) if (entry.isDirectory()) open(join(path, entry.name))
}

function namesIn(path: string): string[] {
  try {
    return readdirSync(path)
  } catch {
    return [] // there are none
  }
}
