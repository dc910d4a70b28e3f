import { chmodSync, existsSync, lstatSync, mkdirSync, realpathSync, statSync, type Stats } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { MeshError } from '../errors.ts'
import { stateProblem } from './disk.ts'

const STICKY = 0o1000
const WRITABLE_BY_OTHERS = 0o002
/** Inside a user namespace the owner of everything outside it, root's directories above all (user_namespaces(7)). */
const UNMAPPED_UID = 65_534

/**
 * Creates a directory that only this user may enter (0700), or takes an existing one after the checks that ssh makes of its keys:
 * whoever owns the directory, or may rename it away, could replace the mesh's keys.
 *
 *     the directory itself    no symbolic link, owned by this user
 *     every parent            owned by this user or root, and not writable by everybody (unless sticky, as /tmp)
 *
 * @throws MeshError STATE_UNREADABLE with the reason, DISK_FULL
 */
export function openPrivateDirectory(dir: string): void {
  const path = resolve(dir)
  try {
    makeDirectory(path)
    const found = lstatSync(path)
    if (found.isSymbolicLink()) throw refused(path, 'it is a symbolic link')
    if (!isOurs(found)) throw refused(path, `it belongs to another user (uid ${found.uid})`)
    checkParents(dirname(realpathSync(path)))
    chmodSync(path, 0o700)
  } catch (error) {
    throw error instanceof MeshError ? error : stateProblem(path, error)
  }
}

/**
 * Not `recursive: true` of Node: that never returns where a parent exists and takes no directories, as in /proc.
 * @throws the system's error
 */
function makeDirectory(path: string): void {
  const make = () => mkdirSync(path, { mode: 0o700 })
  try {
    make()
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return
    if (code !== 'ENOENT' || existsSync(dirname(path))) throw error
    makeDirectory(dirname(path))
    make()
  }
}

/** A file of ours in such a directory may be missing, but must not be a link or another user's. @throws MeshError STATE_UNREADABLE */
export function checkPrivateFile(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) return
  if (!found.isFile()) throw refused(path, found.isSymbolicLink() ? 'it is a symbolic link' : 'it is not a file')
  if (!isOurs(found)) throw refused(path, `it belongs to another user (uid ${found.uid})`)
}

function checkParents(path: string): void {
  const found = statSync(path)
  const isOpen = (found.mode & WRITABLE_BY_OTHERS) !== 0 && (found.mode & STICKY) === 0
  if (isOpen) throw refused(path, 'everybody may write there')
  if (found.uid !== 0 && found.uid !== UNMAPPED_UID && !isOurs(found))
    throw refused(path, `it belongs to another user (uid ${found.uid})`)
  const parent = dirname(path)
  if (parent !== path) checkParents(parent)
}

function isOurs({ uid }: Stats): boolean {
  const own = process.getuid?.()
  return own === undefined || uid === own
}

function refused(path: string, reason: string): MeshError {
  return new MeshError('STATE_UNREADABLE', {
    path,
    reason,
    remedy: 'Choose a directory with --state that only this user can change, or run as its owner.',
  })
}
