import { randomBytes } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { MeshError } from '../errors.ts'
import { stateProblem } from './disk.ts'

/*
 * Small files of ours. Whatever stands in the place of one (a FIFO, a directory, a device) must not hold up the event loop, and
 * a crash leaves the old file or the new one.
 */

/**
 * The text of a regular file; `undefined` where there is none. Opened without waiting: a FIFO that nobody writes to would hold a
 * plain `readFile` for ever.
 * @throws MeshError STATE_CORRUPT when something else has that name; the system's error
 */
export function readPlainFile(path: string): string | undefined {
  let fd: number
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  try {
    if (!fstatSync(fd).isFile()) throw new MeshError('STATE_CORRUPT', { path, reason: 'it is not a file' })
    return readFileSync(fd, 'utf8')
  } finally {
    closeSync(fd)
  }
}

/** Replaces a file in one step, or whatever else has its name but is no directory. Only its owner may read it. @throws MeshError DISK_FULL, STATE_UNREADABLE */
export async function replaceFile(path: string, text: string): Promise<void> {
  await writeAndPlace(path, text, (draft) => rename(draft, path))
}

/** Writes a draft beside `path`, syncs it, and lets `place` give it its name. @throws MeshError DISK_FULL, STATE_UNREADABLE */
export async function writeAndPlace<T>(path: string, text: string, place: (draft: string) => Promise<T>): Promise<T> {
  const draft = join(dirname(path), `.${randomBytes(6).toString('hex')}.draft`)
  try {
    const file = await open(draft, 'wx', 0o600)
    try {
      await file.writeFile(text)
      await file.sync() // a renamed file without its bytes would be worse than the old one
    } finally {
      await file.close()
    }
    return await place(draft)
  } catch (cause) {
    throw stateProblem(path, cause)
  } finally {
    await rm(draft, { force: true }).catch(() => undefined)
  }
}
