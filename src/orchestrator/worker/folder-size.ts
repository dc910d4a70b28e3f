import type { Stats } from 'node:fs'
import { lstat, opendir } from 'node:fs/promises'
import { join } from 'node:path'

/** A folder with more than this in it has no size: whoever counts it reads for minutes. */
const MOST = 1_000_000

/**
 * What the files in a folder take of the disk; `undefined`: there are too many. One file after the other, so that others have their turn
 * of the threads that read; links lead nowhere, and a file with several names counts once.
 */
export async function folderSize(folder: string, signal: AbortSignal): Promise<number | undefined> {
  const linked = new Set<string>()
  const left = [folder]
  let bytes = 0
  let count = 0
  for (let at = left.pop(); at !== undefined; at = left.pop()) {
    for await (const { name } of await opened(at)) {
      signal.throwIfAborted()
      if (++count > MOST) return undefined
      const path = join(at, name)
      const found = await lstat(path).catch(() => undefined) // it has gone meanwhile
      if (found === undefined || isCounted(found, linked)) continue
      bytes += found.blocks * 512
      if (found.isDirectory()) left.push(path)
    }
  }
  return bytes
}

async function opened(folder: string): Promise<AsyncIterable<{ name: string }>> {
  try {
    return await opendir(folder)
  } catch {
    return none() // it has gone meanwhile, or may not be read
  }
}

async function* none(): AsyncIterable<never> {}

function isCounted(found: Stats, linked: Set<string>): boolean {
  if (found.nlink < 2 || found.isDirectory()) return false
  const key = `${found.dev} ${found.ino}`
  if (linked.has(key)) return true
  linked.add(key)
  return false
}
