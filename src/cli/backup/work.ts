import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { stateProblem } from '../../core/kit/disk.ts'

/** One of a command that was killed: no command takes that long. */
const LEFT_MS = 24 * 3_600_000
const ENDING = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/**
 * A folder for copies of keys, which only this user may enter. It is gone when the command ends, also by Ctrl-C; what a command left that was
 * killed is removed by the next.
 */
export class WorkFolder implements Disposable {
  readonly path: string
  readonly #interrupted = (signal: NodeJS.Signals): void => {
    this[Symbol.dispose]()
    process.kill(process.pid, signal)
  }

  private constructor(path: string) {
    this.path = path
    for (const signal of ENDING) process.once(signal, this.#interrupted)
  }

  /** @throws MeshError STATE_UNREADABLE, DISK_FULL */
  static make(place: string, prefix: string): WorkFolder {
    try {
      // as systemd makes the state directory: each role’s own folder in it is private, and may be another user’s
      mkdirSync(place, { recursive: true, mode: process.getuid?.() === 0 ? 0o755 : 0o700 })
      sweep(place, prefix)
      return new WorkFolder(mkdtempSync(join(place, prefix)))
    } catch (error) {
      throw stateProblem(place, error)
    }
  }

  [Symbol.dispose](): void {
    for (const signal of ENDING) process.off(signal, this.#interrupted)
    rmSync(this.path, { recursive: true, force: true })
  }
}

function sweep(place: string, prefix: string): void {
  const own = process.getuid?.()
  for (const name of readdirSync(place).filter((one) => one.startsWith(prefix))) {
    const path = join(place, name)
    const found = statSync(path, { throwIfNoEntry: false })
    if (found?.isDirectory() === true && found.uid === own && Date.now() - found.mtimeMs > LEFT_MS)
      rmSync(path, { recursive: true, force: true })
  }
}
