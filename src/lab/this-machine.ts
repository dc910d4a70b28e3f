import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/* Programs of this machine, to be taken elsewhere: into a container, into a guest. */

/** Where a program is; `undefined` when it is not here. */
export function which(program: string): string | undefined {
  const folders = ['/usr/sbin', '/sbin', '/usr/bin', '/bin', ...(process.env['PATH'] ?? '').split(delimiter)]
  return folders.map((folder) => join(folder, program)).find((path) => existsSync(path))
}

/** The libraries that a program loads, as its own loader finds them; none for a script or a static program. */
export function librariesOf(path: string): string[] {
  try {
    const found = execFileSync('ldd', [path], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    return [...found.matchAll(/(\/\S+) \(0x/g)].map(([, library = '']) => library)
  } catch {
    return []
  }
}
