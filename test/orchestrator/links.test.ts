import t from 'tap'
import { linksOf } from '../../src/agent/links.ts'
import type { LinkOfNode } from '../../src/orchestrator/link/messages/both.ts'
import { joined } from '../../src/orchestrator/root/links.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'

function told(node: string, peer: string, more: Partial<LinkOfNode> = {}): LinkOfNode {
  return { node, peer, path: 'direct', bytesIn: 1, bytesOut: 2, ...more }
}

t.test('what both ends say is one link, as the first of them counts', (t) => {
  const [a, b] = [told('e/a', 'e/b', { rttMs: 3 }), told('e/b', 'e/a', { path: 'reverse', bytesIn: 9 })]
  const link = { id: 'e/a e/b', from: 'e/a', to: 'e/b', path: 'direct', rttMs: 3, bytesIn: 1, bytesOut: 2 }
  t.same(joined([a, b]), [link])
  t.same(joined([b, a]), [link], 'in either order')
  t.same(joined([told('e/b', 'e/a', { bytesIn: 9 })]), [
    { id: 'e/a e/b', from: 'e/a', to: 'e/b', path: 'direct', bytesIn: 2, bytesOut: 9 },
  ])
  t.same(joined([told('e/a', 'e/a')]), [], 'no node has a link to itself')
  t.end()
})

t.test('of very many links those that carried most are told, in the order of their ids', (t) => {
  const all = [told('e/a', 'e/b'), told('e/c', 'e/d', { bytesIn: 8 }), told('e/a', 'e/c', { bytesIn: 9 })]
  t.same(
    joined(all, 2).map(({ id }) => id),
    ['e/a e/c', 'e/c e/d'],
  )
  const sessions = Array.from({ length: 100 }, (_, at) => sessionTo(`e/n${at}`, at))
  const links = linksOf('e/a', sessions)
  t.equal(links.length, 32)
  t.ok(links.every(({ bytesIn }) => bytesIn >= 68))
  t.end()
})

t.test('a node tells the relay of a relayed path only', (t) => {
  const [direct, relayed] = linksOf('e/a', [sessionTo('e/b', 1), sessionTo('e/c', 1, 'relayed')])
  t.same(direct, { node: 'e/a', peer: 'e/b', path: 'direct', bytesIn: 1, bytesOut: 0, rttMs: 5 })
  t.match(relayed, { path: 'relayed', relay: 'wss://r' })
  t.end()
})

function sessionTo(peer: string, bytesIn: number, path: Session['path'] = 'direct'): Session {
  return { peer, path, rttMs: 5, report: () => ({ relay: 'wss://r', bytesIn, bytesOut: 0 }) } as unknown as Session
}
