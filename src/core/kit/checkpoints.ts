import { Worker } from 'node:worker_threads'

/** Of the write-ahead log, 4 KiB each. Smaller writes what changes often to its place more often; larger leaves a longer log to read at the next start. */
const MOST_PAGES = 2_000
/** The thread ends when nothing was to be done for so long. Smaller starts it more often (20 ms of a processor), larger keeps its memory (some MB). */
const IDLE_MS = 5_000

const PROGRAM = `
const { DatabaseSync } = require('node:sqlite')
const { parentPort, workerData } = require('node:worker_threads')
const database = new DatabaseSync(workerData.path, { timeout: 500 })
database.exec('PRAGMA synchronous = NORMAL')
const checkpoint = database.prepare('PRAGMA wal_checkpoint(PASSIVE)')
parentPort.on('message', (message) => {
  if (message === 'end') {
    database.close()
    process.exit(0)
  }
  checkpoint.get()
  parentPort.postMessage('done')
})
`

/**
 * Moves what is in the write-ahead log of a database to its place, on a thread of its own with a connection of its own, while the log goes on
 * being written: it takes two waits for the disk, which may be long.
 */
export class Checkpoints {
  readonly #path: string
  #pages = 0
  #taken = 0
  #thread: Worker | undefined
  #idle: NodeJS.Timeout | undefined
  #isRunning = false

  constructor(path: string) {
    this.#path = path
  }

  /** About so many pages were added to the log. */
  added(pages: number): void {
    this.#pages += pages
    if (this.#pages < MOST_PAGES || this.#isRunning) return
    this.#isRunning = true
    this.#taken = this.#pages
    clearTimeout(this.#idle)
    this.#thread ??= this.#start()
    this.#thread.postMessage('checkpoint')
  }

  /** The thread ends after what it is at. */
  close(): void {
    clearTimeout(this.#idle)
    this.#thread?.postMessage('end')
    this.#thread = undefined
  }

  #start(): Worker {
    const thread = new Worker(PROGRAM, { eval: true, workerData: { path: this.#path }, execArgv: ['--no-warnings'] })
    thread.unref()
    thread.on('message', () => this.#done(thread))
    thread.on('error', () => undefined) // a full disk: the log grows, and the next one tries again
    thread.once('exit', () => {
      if (this.#thread === thread) this.#thread = undefined
      if (this.#isRunning) this.#done(undefined)
    })
    return thread
  }

  #done(thread: Worker | undefined): void {
    this.#isRunning = false
    this.#pages -= this.#taken
    if (thread === undefined) return
    this.#idle = setTimeout(() => this.close(), IDLE_MS).unref()
  }
}
