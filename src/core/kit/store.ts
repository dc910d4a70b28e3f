import { closeSync, fdatasync, fdatasyncSync, openSync, rmSync } from 'node:fs'
import { backup, type DatabaseSync, type StatementSync } from 'node:sqlite'
import { promisify } from 'node:util'
import { Checkpoints } from './checkpoints.ts'
import type { Collection } from './collection.ts'
import { stateProblem } from './disk.ts'
import { Durability } from './durability.ts'
import { KeptCollection, type SavedCollection } from './kept-collection.ts'
import { isSqlite, openStoreFile, stateError, type StoreFile } from './store-file.ts'

export type { Collection } from './collection.ts'

const syncFile = promisify(fdatasync)
const PAGE_BYTES = 4_096

/** Of a copy. Larger: a write of this process waits for longer. */
const PAGES_AT_ONCE = 64

/**
 * State that survives a crash: JSON documents in SQLite with a write-ahead log. A commit survives the end of the process when it returns, and
 * the loss of power when `pending` says that it is on disk; nothing that follows from it leaves the process before that (link/held-back.ts).
 * One process owns the file; a second one is told so.
 *
 *     commit: in the log ──▶ fdatasync of the log, for all commits of a turn ──▶ durable
 *                      └ when the log is long ──▶ a thread moves it to its place (checkpoints.ts)
 */
export class Store implements Disposable {
  readonly path: string
  readonly #file: StoreFile
  readonly #database: DatabaseSync
  readonly #durability: Durability
  readonly #checkpoints: Checkpoints | undefined
  readonly #statements: Statements
  readonly #onRollback = new Set<() => void>()
  #depth = 0
  /** Of the log, that the transaction adds; about. */
  #pages = 0
  /** Of the last write, and of the last one that was committed: saved once for each transaction. */
  #revision: number
  #savedRevision: number

  private constructor(path: string, file: StoreFile) {
    this.path = path
    this.#file = file
    this.#database = file.database
    this.#durability = new Durability(() => this.#sync())
    this.#checkpoints = file.isShared ? new Checkpoints(path) : undefined
    this.#statements = prepare(file.database)
    this.#revision = this.#savedRevision = (this.#statements.last.get() as { last: number }).last
  }

  /** @throws MeshError STATE_UNREADABLE (place or permissions) or STATE_CORRUPT (content; nothing is overwritten). */
  static open(path: string): Store {
    const file = openStoreFile(path)
    try {
      return new Store(path, file)
    } catch (error) {
      file.close()
      throw stateError(path, error)
    }
  }

  /** Until every commit so far is on disk; `undefined` when it is. @throws MeshError STATE_UNREADABLE, DISK_FULL */
  get pending(): Promise<void> | undefined {
    return this.#durability.pending
  }

  async #sync(): Promise<void> {
    try {
      await syncFile(this.#file.log)
    } catch (cause) {
      if (!this.isOpen || !this.#hasMovedLog()) throw stateProblem(this.path, cause)
    }
  }

  /** What the kernel could not write of the log it still has in memory: in its place, and that on disk, it needs no log. */
  #hasMovedLog(): boolean {
    try {
      const row = this.#database.prepare('PRAGMA wal_checkpoint(TRUNCATE)').get()
      return (row as { busy: number }).busy === 0
    } catch {
      return false
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
    const { get, revision, put, create, remove, list, keys } = this.#statements
    const within = (prefix: string) => [name, prefix, `${prefix}\u{10ffff}`] as const
    const write = (statement: StatementSync, key: string, text: string): boolean =>
      this.#write(() => {
        this.#writes(1 + Math.floor(text.length / PAGE_BYTES))
        return Number(statement.run(name, key, ++this.#revision, text).changes) === 1
      })
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
      delete: (key) =>
        this.#write(() => {
          this.#writes(1)
          return Number(remove.run(name, key).changes) === 1
        }),
      list: (prefix = '') => list.all(...within(prefix)).map(({ body }) => JSON.parse(body as string) as T),
      keys: (prefix = '') => keys.all(...within(prefix)).map(({ key }) => key as string),
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
      this.#statements.begin.run()
      const result = work()
      if (this.#revision !== this.#savedRevision) this.#statements.advance.run(this.#revision)
      this.#statements.commit.run()
      this.#savedRevision = this.#revision
      this.#checkpoints?.added(this.#pages)
      return result
    } catch (error) {
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK')
      for (const listener of this.#onRollback) listener()
      throw isSqlite(error) ? stateError(this.path, error) : error
    } finally {
      this.#depth = 0
      this.#pages = 0
    }
  }

  /** What is said from now on follows from it, also within the transaction: the disk is waited for in a later turn than it ends in. */
  #writes(pages: number): void {
    if (this.#pages === 0) this.#durability.wrote()
    this.#pages += pages
  }

  /** A part of a transaction whose failure takes back only this part; SQLite names the innermost when names are equal. */
  #nested<T>(work: () => T): T {
    this.#statements.beginPart.run()
    this.#depth += 1
    try {
      const result = work()
      this.#statements.endPart.run()
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
    if (!this.isOpen) return
    this.#checkpoints?.close()
    try {
      fdatasyncSync(this.#file.log)
    } catch {
      // nobody was told of what is not on disk
    }
    this.#file.close()
    void this.#durability.settled().then(() => closeSync(this.#file.log))
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

type Statements = ReturnType<typeof prepare>

function prepare(database: DatabaseSync) {
  return {
    begin: database.prepare('BEGIN IMMEDIATE'),
    commit: database.prepare('COMMIT'),
    beginPart: database.prepare('SAVEPOINT part'),
    endPart: database.prepare('RELEASE part'),
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
    keys: database.prepare('SELECT key FROM documents WHERE collection = ? AND key >= ? AND key < ? ORDER BY key'),
  }
}
