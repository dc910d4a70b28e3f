import t from 'tap'
import { changedLinks, linesOf, linkText, MOST_LINES } from '../../src/page/model/map-links.ts'
import { layoutOf } from '../../src/page/model/map-layout.ts'
import type { LinkRow } from '../../src/page/model/rows.ts'
import { clusterRow, nodeRow } from './rows.ts'

function row(from: string, to: string, more: Partial<LinkRow> = {}): LinkRow {
  return { id: `${from} ${to}`, from, to, path: 'direct', ...more }
}

const LAYOUT = layoutOf(
  { clusters: [clusterRow('edge')], nodes: [nodeRow('edge/a'), nodeRow('edge/b')], instances: [] },
  new Map(),
)

t.test('links are lines between nodes of the map, relayed ones marked', (t) => {
  const [line, ...others] = linesOf([row('edge/a', 'edge/b', { path: 'relayed' }), row('edge/a', 'gone/x')], LAYOUT)
  t.match(line, { isRelayed: true })
  t.not(line?.x1 === line?.x2 && line?.y1 === line?.y2, true, 'from one node to the other')
  t.same(others, [], 'not to a node that is not there')
  const many = Array.from({ length: MOST_LINES + 5 }, (_, at) => row('edge/a', 'edge/b', { id: `${at}`, bytesIn: at }))
  const lines = linesOf(many, LAYOUT)
  t.equal(lines.length, MOST_LINES)
  t.ok(
    lines.every(({ row }) => (row.bytesIn ?? 0) >= 5),
    'those that carried most',
  )
  t.end()
})

t.test('a link says its path, round-trip time and bytes as far as they are known', (t) => {
  t.equal(
    linkText(row('a', 'b', { path: 'relayed', rttMs: 12.34, bytesIn: 1_048_576, bytesOut: 1_048_576 })),
    'relayed, 12.3 ms, 2 MiB',
  )
  t.equal(linkText(row('a', 'b')), 'direct')
  t.end()
})

t.test('only a link that is new or goes another way has changed', (t) => {
  const before = [row('a', 'b', { rttMs: 1 }), row('a', 'c')]
  const now = [row('a', 'b', { rttMs: 9 }), row('a', 'c', { path: 'relayed' }), row('a', 'd')]
  t.same(changedLinks(before, now), ['a c', 'a d'])
  t.end()
})
