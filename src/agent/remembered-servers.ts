import { readFileSync } from 'node:fs'
import { rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { RememberedServers } from '../../resolver/upstream.ts'
import { background } from '../core/kit/background.ts'

/**
 * The name servers of the machine, kept in the state directory for the day on which /etc/resolv.conf names only this agent:
 * without them, names outside the mesh would be refused, and after a restart the agent could not look up its own cluster.
 */
export function rememberedServers(dir: string): RememberedServers {
  const path = join(dir, 'upstreams.json')
  let written = ''
  return {
    load: () => {
      try {
        const servers: unknown = JSON.parse(readFileSync(path, 'utf8'))
        return Array.isArray(servers) ? servers.filter((server) => typeof server === 'string') : []
      } catch {
        return [] // there is none, or it is damaged: it is written anew as soon as resolv.conf names a server
      }
    },
    save: (servers) => {
      const text = JSON.stringify(servers)
      if (text === written) return
      written = text
      void background.run('remembered name servers', () => replaceFile(path, text))
    },
  }
}

/** A crash leaves the old file or the new one. */
async function replaceFile(path: string, text: string): Promise<void> {
  const draft = `${path}.draft`
  await writeFile(draft, text, { mode: 0o600 })
  await rename(draft, path)
}
