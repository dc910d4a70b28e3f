import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { InstanceId } from '../../core/model/ids.ts'
import { fileNameOf } from './output-files.ts'

/** Of instances that are gone; fewer and `logs` of yesterday's crash are missing, more and a small disk fills up. */
const MAX_KEPT = 100

/** Removes the oldest logs of instances that are not on this node any more. */
export async function pruneLogs(logsDir: string, present: Iterable<InstanceId>, limit = MAX_KEPT): Promise<void> {
  const here = new Set([...present].map(fileNameOf))
  const gone = (await readdir(logsDir)).filter(
    (name) => name.endsWith('.log') && !here.has(name.slice(0, -'.log'.length)),
  )
  if (gone.length <= limit) return
  const aged = await Promise.all(gone.map(async (name) => ({ name, age: await modifiedAt(join(logsDir, name)) })))
  const oldest = aged.sort((a, b) => a.age - b.age).slice(0, gone.length - limit)
  for (const { name } of oldest) {
    await rm(join(logsDir, `${name}.1`), { force: true })
    await rm(join(logsDir, name), { force: true })
  }
}

/** A file that is gone by now is as old as can be. */
async function modifiedAt(path: string): Promise<number> {
  return stat(path).then(
    ({ mtimeMs }) => mtimeMs,
    () => 0,
  )
}

/** Prunes when instances have gone, one time at once: those that go meanwhile are done by one more. */
export class LogPruning {
  readonly #logsDir: string
  readonly #present: () => Iterable<InstanceId>
  #isRunning = false
  #isWanted = false

  constructor(logsDir: string, present: () => Iterable<InstanceId>) {
    this.#logsDir = logsDir
    this.#present = present
  }

  async prune(): Promise<void> {
    this.#isWanted = true
    if (this.#isRunning) return
    this.#isRunning = true
    try {
      while (this.#isWanted) {
        this.#isWanted = false
        await pruneLogs(this.#logsDir, this.#present())
      }
    } finally {
      this.#isRunning = false
    }
  }
}
