import { chmodSync, closeSync, openSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { backup, DatabaseSync, type StatementSync } from 'node:sqlite'
import { MeshError } from '../errors.ts'
import type { Collection } from './collection.ts'
import { stateProblem } from './disk.ts'
import { KeptCollection, type SavedCollection } from './kept-collection.ts'
import { checkPrivateFile, openPrivateDirectory } from './private-directory.ts'

export type { Collection } from './collection.ts'

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

/** Of a copy, 4 KiB each. Larger: a write of this process waits for longer. */
const PAGES_AT_ONCE = 64

/** Marks the file as ours: "hedg". */
const APPLICATION_ID = 0x68656467

/**
 * State that survives a crash: JSON documents in SQLite, write-ahead log, every commit on disk before it returns.
 * One process owns the file; a second one is told so.
 */
export class Store implements Disposable {
  readonly path: string
  readonly #database: DatabaseSync
  readonly #statements: Statements
  readonly #onRollback = new Set<() => void>()
  #depth = 0
  /** Of the last write, and of the last one that was committed: saved once for each transaction. */
  #revision: number
  #savedRevision: number

  private constructor(path: string, database: DatabaseSync) {
    this.path = path
    this.#database = database
    this.#statements = prepare(database)
    this.#revision = this.#savedRevision = (this.#statements.last.get() as { last: number }).last
  }

  /** @throws MeshError STATE_UNREADABLE (place or permissions) or STATE_CORRUPT (content; nothing is overwritten). */
  static open(path: string): Store {
    makePlace(path)
    let database: DatabaseSync | undefined
    try {
      database = new DatabaseSync(path, { timeout: 500 })
      check(database, path)
      database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON')
      migrate(database, path)
      return new Store(path, database)
    } catch (error) {
      database?.close()
      throw stateError(path, error)
    }
  }

  /** As `collection`, and read from memory (kept-collection.ts). Take one name once, or its readers would not see each other's writes. */
  keptCollection<T>(name: string): Collection<T> {
    const kept = new KeptCollection(this.#saved<T>(name))
    this.onRollback(() => kept.reload())
    return kept
  }

  collection<T>(name: string): Collection<T> {
    return this.#saved(name)
  }

  #saved<T>(name: string): SavedCollection<T> {
    const { get, revision, put, create, remove, list } = this.#statements
    const rows = (prefix: string) =>
      list.all(name, prefix, `${prefix}\u{10ffff}`) as unknown as Array<{ key: string; body: string }>
    const write = (statement: StatementSync, key: string, text: string): boolean =>
      this.#write(() => Number(statement.run(name, key, ++this.#revision, text).changes) === 1)
    return {
      get: (key) => {
        const row = get.get(name, key) as { body: string } | undefined
        return row === undefined ? undefined : (JSON.parse(row.body) as T)
      },
      revision: (key) => (revision.get(name, key) as { revision: number } | undefined)?.revision,
      put: (key, value) => {
        write(put, key, JSON.stringify(value))
      },
      create: (key, value) => write(create, key, JSON.stringify(value)),
      putText: (key, text) => {
        write(put, key, text)
      },
      createText: (key, text) => write(create, key, text),
      delete: (key) => this.#write(() => Number(remove.run(name, key).changes) === 1),
      list: (prefix = '') => rows(prefix).map((row) => JSON.parse(row.body) as T),
      keys: (prefix = '') => rows(prefix).map((row) => row.key),
    }
  }

  /** What was written since a transaction, or a part of one, began is not there: whoever remembers it must look again. */
  onRollback(listener: () => void): void {
    this.#onRollback.add(listener)
  }

  /** One write, which is a transaction of its own outside of one. */
  #write<T>(work: () => T): T {
    return this.#depth > 0 ? work() : this.transaction(work)
  }

  /** All of `work`, or nothing of it when it throws. One inside another is on disk when the outermost is. */
  transaction<T>(work: () => T): T {
    if (this.#depth > 0) return this.#nested(work)
    this.#depth = 1
    try {
      this.#database.exec('BEGIN IMMEDIATE')
      const result = work()
      if (this.#revision !== this.#savedRevision) this.#statements.advance.run(this.#revision)
      this.#database.exec('COMMIT')
      this.#savedRevision = this.#revision
      return result
    } catch (error) {
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK')
      for (const listener of this.#onRollback) listener()
      throw isSqlite(error) ? stateError(this.path, error) : error
    } finally {
      this.#depth = 0
    }
  }

  /** A part of a transaction whose failure takes back only this part; SQLite names the innermost when names are equal. */
  #nested<T>(work: () => T): T {
    this.#database.exec('SAVEPOINT part')
    this.#depth += 1
    try {
      const result = work()
      this.#database.exec('RELEASE part')
      return result
    } catch (error) {
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK TO part; RELEASE part') // else a full disk ended all of it
      for (const listener of this.#onRollback) listener()
      throw isSqlite(error) ? stateError(this.path, error) : error
    } finally {
      this.#depth -= 1
    }
  }

  get isOpen(): boolean {
    return this.#database.isOpen
  }

  /**
   * A copy of what is committed when it is complete, made beside the work of this process, in pieces. The file must not exist.
   * @throws MeshError DISK_FULL, STATE_UNREADABLE
   */
  async copyTo(path: string): Promise<void> {
    try {
      closeSync(openSync(path, 'wx', 0o600))
      await backup(this.#database, path, { rate: PAGES_AT_ONCE })
    } catch (error) {
      rmSync(path, { force: true })
      throw isSqlite(error) ? stateError(path, error) : stateProblem(path, error)
    }
  }

  close(): void {
    if (this.#database.isOpen) this.#database.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

type Statements = ReturnType<typeof prepare>

function prepare(database: DatabaseSync) {
  return {
    get: database.prepare('SELECT body FROM documents WHERE collection = ? AND key = ?'),
    revision: database.prepare('SELECT revision FROM documents WHERE collection = ? AND key = ?'),
    last: database.prepare('SELECT last FROM revisions'),
    advance: database.prepare('UPDATE revisions SET last = ?'),
    put: database.prepare(
      `INSERT INTO documents (collection, key, revision, body) VALUES (?, ?, ?, ?)
       ON CONFLICT DO UPDATE SET revision = excluded.revision, body = excluded.body`,
    ),
    create: database.prepare(
      'INSERT INTO documents (collection, key, revision, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING',
    ),
    remove: database.prepare('DELETE FROM documents WHERE collection = ? AND key = ?'),
    list: database.prepare(
      'SELECT key, body FROM documents WHERE collection = ? AND key >= ? AND key < ? ORDER BY key',
    ),
  }
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
  database.exec('PRAGMA locking_mode = EXCLUSIVE')
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
  database.exec('BEGIN IMMEDIATE') // also takes the lock: from here on the file is ours alone
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

function isSqlite(error: unknown): error is Error & { errcode: number } {
  return error instanceof Error && 'errcode' in error
}

/** https://sqlite.org/rescode.html, primary codes. */
const BUSY = 5
const LOCKED = 6
const CORRUPT = 11
const IO = 10
const FULL = 13
const NOT_A_DATABASE = 26

function stateError(path: string, error: unknown): unknown {
  if (!isSqlite(error)) return error
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

function corrupt(path: string, reason: string): MeshError {
  return new MeshError('STATE_CORRUPT', {
    path,
    reason,
    remedy: 'Nothing was overwritten. Restore the file from a backup, or move it away to start afresh.',
  })
}
