import { createHash } from 'node:crypto'
import {
  constants,
  copyFileSync,
  createReadStream,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { isMeshError, MeshError } from '../../core/errors.ts'
import { stateProblem } from '../../core/kit/disk.ts'
import { askRole, ROLES, type RoleName } from '../roles-here.ts'

/*
 * What a backup holds: of each role its keys and what it cannot know again. Logs, records of running instances and sockets mean
 * nothing elsewhere.
 */

/** The first file of an archive: which files follow, and what they are. */
export interface Manifest {
  format: 1
  version: string
  host: string
  /** Milliseconds since 1970. */
  at: number
  roles: RoleName[]
  files: Record<string, { size: number; sha256: string }>
}

export const MANIFEST = 'hedgerow-backup.json'
/** Of our own directories; nothing that could lead out of them. */
export const SAFE_NAME = /^(root|cluster|relay|agent)(\/[A-Za-z0-9_-][A-Za-z0-9._-]{0,80}){1,4}$/

const LEFT_OUT =
  /^agent\/(logs|instances)\/|\.(sock|draft)$|-(wal|shm|lock|journal)$|(^|\/)\.|^agent\/container-resolv\.conf$/
const DATABASE = /\.db$/

export interface Copied {
  name: string
  /** Where the copy is. */
  path: string
  size: number
  mode: number
  mtime: number
  uid: number
  sha256: string
}

export function rolesIn(state: string): RoleName[] {
  return ROLES.filter((role) => existsSync(join(state, role)))
}

/** Keys change once in hours, so the second try fits nearly always. */
const TRIES = 5

/**
 * Copies of all files in `work`, of one moment: the keys are looked at before and after, and all is done again if one has changed.
 * The roles go on meanwhile.
 * @throws MeshError STATE_UNREADABLE, DISK_FULL
 */
export async function copyState(state: string, roles: readonly RoleName[], work: string): Promise<Copied[]> {
  for (let tries = 0; tries < TRIES; tries++) {
    const names = roles.flatMap((role) => namesBelow(state, role))
    const keys = names.filter((name) => isKey(name))
    const before = signatureOf(state, keys)
    const folder = join(work, String(tries))
    mkdirSync(folder, { mode: 0o700 })
    const copied: Copied[] = []
    for (const name of names) copied.push(...(await copyOf(state, name, folder)))
    if (signatureOf(state, keys) === before) return copied
  }
  throw new MeshError('STATE_UNREADABLE', { path: state, reason: 'it changes faster than it can be copied' })
}

function namesBelow(state: string, folder: string): string[] {
  return readdirSync(join(state, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = `${folder}/${entry.name}`
    if (entry.isDirectory()) return LEFT_OUT.test(`${name}/`) ? [] : namesBelow(state, name)
    return entry.isFile() && !LEFT_OUT.test(name) && SAFE_NAME.test(name) ? [name] : []
  })
}

/** Keys and certificates: they must fit each other and the database. Other files are copies of what is known elsewhere. */
function isKey(name: string): boolean {
  return /\/(identity|authority)\/|\/(admin\.json|secrets\.key)$/.test(name)
}

function signatureOf(state: string, names: readonly string[]): string {
  const of = (name: string) => {
    const found = statSync(join(state, name), { bigint: true, throwIfNoEntry: false })
    return found === undefined ? 'none' : `${found.ino} ${found.mtimeNs} ${found.size}`
  }
  return names.map((name) => `${name} ${of(name)}`).join('\n')
}

/** A role that runs keeps its database to itself, and makes the copy. */
async function copyDatabase(state: string, name: string, to: string): Promise<void> {
  const role = name.split('/')[0] as RoleName
  const answer = await askRole({ state }, role, '/copy-store').catch((error: unknown) => {
    if (isMeshError(error, 'NOT_RUNNING')) return undefined
    throw error
  })
  if (answer === undefined) return copyAtRest(join(state, name), to)
  const { path } = answer as { path: string }
  try {
    copyFileSync(path, to, constants.COPYFILE_EXCL)
  } finally {
    rmSync(path, { force: true })
  }
}

function copyAtRest(from: string, to: string): void {
  let database: DatabaseSync | undefined
  try {
    database = new DatabaseSync(from, { readOnly: true, timeout: 10_000 })
    database.prepare('VACUUM INTO ?').run(to)
  } catch (error) {
    throw stateProblem(from, error)
  } finally {
    database?.close()
  }
}

/** Nothing, when the file has gone meanwhile. */
async function copyOf(state: string, name: string, folder: string): Promise<Copied[]> {
  const own = join(state, name)
  const path = join(folder, name.replaceAll('/', ':'))
  try {
    const found = lstatSync(own, { throwIfNoEntry: false })
    if (found === undefined) return []
    if (DATABASE.test(name)) await copyDatabase(state, name, path)
    else copyFileSync(own, path, constants.COPYFILE_EXCL)
    return [{ name, path, mode: found.mode, mtime: found.mtimeMs / 1_000, uid: found.uid, ...(await digestOf(path)) }]
  } catch (error) {
    throw error instanceof MeshError ? error : stateProblem(own, error)
  }
}

export async function digestOf(path: string): Promise<{ size: number; sha256: string }> {
  const hash = createHash('sha256')
  let size = 0
  for await (const chunk of createReadStream(path)) {
    hash.update(chunk as Buffer)
    size += (chunk as Buffer).length
  }
  return { size, sha256: hash.digest('hex') }
}

/** `undefined` where the machine has no such user. */
export function userOf(uid: number): string | undefined {
  return passwd().find((fields) => Number(fields[2]) === uid)?.[0]
}

export function idsOf(user: string): { uid: number; gid: number } | undefined {
  const fields = passwd().find(([name]) => name === user)
  return fields === undefined ? undefined : { uid: Number(fields[2]), gid: Number(fields[3]) }
}

function passwd(): string[][] {
  try {
    return readFileSync('/etc/passwd', 'utf8')
      .split('\n')
      .map((line) => line.split(':'))
  } catch {
    return []
  }
}
