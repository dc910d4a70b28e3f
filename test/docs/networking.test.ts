import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { RELAY_LIMITS } from '../../proxy/relay/limits.ts'
import { findingsOf } from '../../src/netcheck/findings.ts'
import { bestPath, NETWORKS } from '../../src/netcheck/expected-paths.ts'
import { readPathRule } from '../../src/core/model/path-rule.ts'

const page = readFileSync(join(import.meta.dirname, '../../docs/networking.md'), 'utf8')

t.test('the table of the best paths is what netcheck expects', (t) => {
  const table = page.slice(page.indexOf('| from ↓ to → |')).split('\n\n', 1)[0] ?? ''
  const [, , ...rows] = table.split('\n').map((line) => line.split('|').map((cell) => cell.trim()))
  for (const [, own = '', ...cells] of rows)
    for (const [i, peer] of NETWORKS.entries()) t.equal(cells[i], bestPath(own as never, peer), `${own} to ${peer}`)
  t.equal(rows.length, NETWORKS.length)
  t.end()
})

t.test('the output of netcheck is what it prints for that network', (t) => {
  const shown = /<!-- netcheck: a home router -->\n```\n(.*?)```/s.exec(page)?.[1]
  const defaults = [{ family: 'ipv4', device: 'eth0', gateway: '192.168.1.1', metric: 100, mtu: 1500 } as const]
  const findings = findingsOf({
    local: { addresses: ['192.168.1.10'], defaults, settings: {} },
    agent: {
      node: 'edge/one',
      paths: 'any',
      listen: '0.0.0.0:7472',
      candidates: ['192.168.1.10:7472'],
      relays: [{ relay: 'wss://cluster.example.org:7471/relay', rttMs: 12.3 }],
      tcp: '203.0.113.101:40044',
      udp: '203.0.113.101:7472',
      mapping: 'endpoint-independent',
      filtering: 'address-and-port-dependent',
      observers: 2,
      hairpin: { tcp: false, udp: false },
      isProxied: false,
      isUdpOn: true,
      udpWorks: true,
      network: 'restricted',
      ways: [],
    },
  })
  const printed = findings.flatMap(({ check, ok, finding, remedy }) => [
    `${ok ? 'ok  ' : 'fail'} ${check}: ${finding}`,
    ...(remedy === undefined ? [] : [`     ${remedy}`]),
  ])
  t.equal(shown, `${printed.join('\n')}\n`)
  t.end()
})

t.test('the rules of paths and the limits of relays are those of the code', (t) => {
  for (const rule of ['any', 'direct-only', 'relay-only', 'prefer-direct', 'prefer-relayed', 'no-punched no-reverse'])
    t.ok(readPathRule(rule) !== undefined && page.includes(`\`${rule}\``), rule)
  t.match(page, new RegExp(`${RELAY_LIMITS.total.toLocaleString('en')} connections, of those ${RELAY_LIMITS.dialled} `))
  t.match(page, `${((RELAY_LIMITS.nodeBytesPerSecond * 8) / 1e6).toLocaleString('en')} Mbit/s`)
  t.end()
})
