import type { RememberedServers } from '../../resolver/upstream.ts'
import type { KeptFile } from '../core/kit/kept-file.ts'

/**
 * The name servers of the machine, kept in the state directory for the day on which /etc/resolv.conf names only this agent:
 * without them, names outside the mesh would be refused, and after a restart the agent could not look up its own cluster.
 */
export function rememberedServers(file: KeptFile): RememberedServers {
  return {
    load: () => {
      const servers = file.readJson() // none, or a damaged one: written anew as soon as resolv.conf names a server
      return Array.isArray(servers) ? servers.filter((server) => typeof server === 'string') : []
    },
    save: (servers) => void file.put(JSON.stringify(servers)),
  }
}
