import { chmodSync, closeSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { isMeshError, MeshError } from '../errors.ts'
import { stateProblem } from './disk.ts'
import { checkPrivateFile, openPrivateDirectory } from './private-directory.ts'

/** Each step runs once, in order, in one transaction; never edit one that was released, add another. */
const MIGRATIONS = [
  `CREATE TABLE documents (
     collection TEXT NOT NULL,
     key TEXT NOT NULL,
     revision INTEGER NOT NULL,
     body TEXT NOT NULL,
     PRIMARY KEY (collection, key)
   ) WITHOUT ROWID;
   CREATE TABLE revisions (one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL);
   INSERT INTO revisions VALUES (1, 0);`,
] as const

/** Marks the file as ours: "hedg". */
const APPLICATION_ID = 0x68656467

export interface StoreFile {
  database: DatabaseSync
  /** The file of its write-ahead log, to be closed by whoever puts it on disk. */
  log: number
  /** False: nothing but this connection can read it, so that it moves the log to its place by itself. */
  isShared: boolean
  close(): void
}

/** Of the log, when it becomes so long that a commit moves it to its place, whatever that holds up; 4 KiB each. */
const LONGEST_LOG_PAGES = 16_000
/** What remains of its file when it begins anew. */
const LOG_FILE_BYTES = 16 * 1024 * 1024

/**
 * Opens the database; commits return when they are in the log, and the log is on disk when whoever writes has put it there (durability.ts).
 *
 *     some.db       the documents          some.db-wal   what was committed since they were moved there
 *     some.db-lock  ours while we live     some.db-shm   what finds a page in the log; not there on a disk that has no room for it
 *
 * @throws MeshError STATE_UNREADABLE (place or permissions) or STATE_CORRUPT (content; nothing is overwritten).
 */
export function openStoreFile(path: string): StoreFile {
  makePlace(path)
  try {
    return openShared(path) ?? openExclusive(path)
  } catch (error) {
    throw stateError(path, error)
  }
}

/** `undefined` where a disk is full, or cannot share memory. */
function openShared(path: string): StoreFile | undefined {
  let lock: DatabaseSync | undefined
  let database: DatabaseSync | undefined
  try {
    lock = takeLock(`${path}-lock`)
    database = new DatabaseSync(path, { timeout: 500 })
    prepareFile(database, path)
    database.exec(`PRAGMA wal_autocheckpoint = ${LONGEST_LOG_PAGES}; PRAGMA journal_size_limit = ${LOG_FILE_BYTES}`)
    return fileOf(path, { database, lock, isShared: true })
  } catch (error) {
    database?.close()
    lock?.close()
    if (isMeshError(error) || isOurs(error)) throw error
    return undefined
  }
}

function openExclusive(path: string): StoreFile {
  const database = new DatabaseSync(path, { timeout: 500 })
  try {
    database.exec('PRAGMA locking_mode = EXCLUSIVE')
    prepareFile(database, path)
    return fileOf(path, { database, isShared: false })
  } catch (error) {
    database.close()
    throw error
  }
}

function fileOf(path: string, parts: { database: DatabaseSync; lock?: DatabaseSync; isShared: boolean }): StoreFile {
  const { database, lock, isShared } = parts
  const close = () => {
    database.close()
    lock?.close()
  }
  return { database, log: openSync(`${path}-wal`, 'r'), isShared, close }
}

/** An empty file that is locked for as long as it is open. */
function takeLock(path: string): DatabaseSync {
  checkPrivateFile(path)
  closeSync(openSync(path, 'a', 0o600))
  const lock = new DatabaseSync(path, { timeout: 500 })
  try {
    lock.exec('BEGIN EXCLUSIVE')
    return lock
  } catch (error) {
    lock.close()
    throw error
  }
}

function prepareFile(database: DatabaseSync, path: string): void {
  check(database, path)
  database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON')
  migrate(database, path)
}

/** The file is made by us, so that it is 0600 from its first byte; SQLite gives its log the same mode. */
function makePlace(path: string): void {
  try {
    openPrivateDirectory(dirname(path))
    for (const file of [path, `${path}-wal`, `${path}-shm`]) checkPrivateFile(file)
    closeSync(openSync(path, 'a+', 0o600))
    chmodSync(path, 0o600)
  } catch (cause) {
    throw cause instanceof MeshError ? cause : stateProblem(path, cause)
  }
}

const REMEDY = 'Give this user read and write permission on the directory, or choose another with --state.'

/** Reads before anything writes: a damaged file stays as it is, for whoever must rescue it. */
function check(database: DatabaseSync, path: string): void {
  const { integrity_check: verdict } = database.prepare('PRAGMA integrity_check(1)').get() as {
    integrity_check: string
  }
  if (verdict !== 'ok') throw corrupt(path, verdict)
  const { application_id: owner } = database.prepare('PRAGMA application_id').get() as { application_id: number }
  if (owner !== APPLICATION_ID && versionOf(database) + tablesOf(database) > 0) {
    throw corrupt(path, 'this is a database of another program')
  }
}

function migrate(database: DatabaseSync, path: string): void {
  const version = versionOf(database)
  if (version > MIGRATIONS.length) {
    throw new MeshError('STATE_UNREADABLE', {
      path,
      reason: `written by a newer hedgerow (state version ${version}; this one knows up to ${MIGRATIONS.length})`,
      remedy: 'Start that version, or choose another directory with --state.',
    })
  }
  database.exec('BEGIN IMMEDIATE')
  for (const step of MIGRATIONS.slice(version)) database.exec(step)
  if (version < MIGRATIONS.length)
    // else nothing is written, so that a role starts while its disk is full
    database.exec(`PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = ${MIGRATIONS.length}`)
  database.exec('COMMIT')
}

function versionOf(database: DatabaseSync): number {
  return (database.prepare('PRAGMA user_version').get() as { user_version: number }).user_version
}

function tablesOf(database: DatabaseSync): number {
  return (database.prepare('SELECT count(*) AS tables FROM sqlite_schema').get() as { tables: number }).tables
}

export function isSqlite(error: unknown): error is Error & { errcode: number } {
  return error instanceof Error && 'errcode' in error
}

/** https://sqlite.org/rescode.html, primary codes. */
const BUSY = 5
const LOCKED = 6
const CORRUPT = 11
const IO = 10
const FULL = 13
const NOT_A_DATABASE = 26

export function stateError(path: string, error: unknown): unknown {
  if (!isSqlite(error)) return isMeshError(error) ? error : stateProblem(path, error)
  const code = error.errcode & 0xff
  if (code === CORRUPT || code === NOT_A_DATABASE) return corrupt(path, error.message)
  if (code === FULL || (code === IO && /ENOSPC|disk/i.test(error.message)))
    return new MeshError('DISK_FULL', { path }, { cause: error })
  const remedy =
    code === BUSY || code === LOCKED
      ? 'Another hedgerow uses this directory: stop it, or choose another with --state.'
      : REMEDY
  return new MeshError('STATE_UNREADABLE', { path, remedy }, { cause: error })
}

/** Not of the place, but of what is in it, or of who else uses it. */
function isOurs(error: unknown): boolean {
  return isSqlite(error) && [BUSY, LOCKED, CORRUPT, NOT_A_DATABASE].includes(error.errcode & 0xff)
}

function corrupt(path: string, reason: string): MeshError {
  return new MeshError('STATE_CORRUPT', {
    path,
    reason,
    remedy: 'Nothing was overwritten. Restore the file from a backup, or move it away to start afresh.',
  })
}
