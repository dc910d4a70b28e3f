import type { NodeId } from '../core/model/ids.ts'
import { busiest } from '../orchestrator/link/busiest.ts'
import { type LinkOfNode, MOST_LINKS_OF_NODE } from '../orchestrator/link/messages/both.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'

/** How this node reaches the nodes that it has a session with; of very many those that carried most. */
export function linksOf(node: NodeId, sessions: Iterable<Session>): LinkOfNode[] {
  const all = Array.from(sessions).flatMap((session): LinkOfNode[] => {
    const { peer, path, rttMs } = session
    if (path === 'local') return []
    const { relay, bytesIn, bytesOut } = session.report()
    return [
      {
        node,
        peer,
        path,
        bytesIn,
        bytesOut,
        ...(path === 'relayed' && relay !== undefined ? { relay } : {}),
        ...(rttMs === undefined ? {} : { rttMs }),
      },
    ]
  })
  return busiest(all, MOST_LINKS_OF_NODE)
}
