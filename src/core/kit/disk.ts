import { MeshError } from '../errors.ts'

const FULL: ReadonlySet<unknown> = new Set(['ENOSPC', 'EDQUOT'])
const DENIED: ReadonlySet<unknown> = new Set(['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EEXIST', 'EISDIR'])

/** What is wrong with a place on disk, for people: full, not writable, or as the system says. */
export function stateProblem(path: string, cause: unknown): MeshError {
  const { code } = (cause ?? {}) as NodeJS.ErrnoException
  if (FULL.has(code)) return new MeshError('DISK_FULL', { path }, { cause })
  const remedy = 'Give this user permission to read and write there, or choose another directory with --state.'
  return new MeshError('STATE_UNREADABLE', { path, ...(DENIED.has(code) ? { remedy } : {}) }, { cause })
}
