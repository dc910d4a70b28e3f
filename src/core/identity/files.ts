import { link, readFile } from 'node:fs/promises'
import { MeshError } from '../errors.ts'
import { replaceFile, writeAndPlace } from '../kit/plain-file.ts'
import { checkPrivateFile, openPrivateDirectory as openDirectory } from '../kit/private-directory.ts'

/** Files with secrets: 0600 in a 0700 directory, written whole or not at all. */

/** @throws MeshError STATE_UNREADABLE */
export async function openPrivateDirectory(dir: string): Promise<void> {
  openDirectory(dir)
}

/** The text, or `undefined` when there is no such file. @throws MeshError STATE_UNREADABLE */
export async function readIfThere(path: string): Promise<string | undefined> {
  try {
    checkPrivateFile(path)
    return await readFile(path, 'utf8')
  } catch (cause) {
    if (cause instanceof MeshError) throw cause
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new MeshError('STATE_UNREADABLE', { path }, { cause })
  }
}

/** Writes a file that must not exist yet; false when somebody was first. @throws MeshError STATE_UNREADABLE */
export function writeNew(path: string, text: string): Promise<boolean> {
  return writeAndPlace(path, text, async (draft) => {
    try {
      await link(draft, path)
      return true
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return false
      throw cause
    }
  })
}

/** Replaces a file in one step. @throws MeshError STATE_UNREADABLE */
export async function replace(path: string, text: string): Promise<void> {
  await replaceFile(path, text)
}
