import { spawnSync } from 'node:child_process'
import { createServer } from 'node:net'
import { once } from 'node:events'
import t from 'tap'
import { nextVip, OWN_RANGE as RANGE } from '../support/own-vips.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import type { InterceptParts } from '../../proxy/intercept/interceptor.ts'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import { addPorts, parsePorts, replaceTable, vipTable } from '../../proxy/intercept/vip-rules.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { vipRange, vipToIPv4 } from '../../src/core/model/address.ts'

import { freePort, hasTool } from '../../src/lab/system-tools.ts'
import { allAsked, Client, keptLog, LiteralTable } from './world.ts'
import { until } from '../support/until.ts'

const canIsolate = spawnSync('unshare', ['-Urn', 'true']).status === 0 && hasTool('nft')
const skip = canIsolate ? false : 'needs user namespaces and nft'

t.test('with rights, the ports of VIPs stay free for the machine', { skip }, async (t) => {
  const argv = ['-Urn', process.execPath, `${import.meta.dirname}/vip-redirect-world.ts`]
  const { stdout, stderr } = spawnSync('unshare', argv, { encoding: 'utf8', timeout: 60_000 })
  const found = JSON.parse(stdout || '{}') as Record<string, unknown>
  t.match(
    found,
    {
      rules: true,
      vip: 'mesh on 22',
      datagram: 'mesh',
      sshd: 'listens',
      machine: 'machine',
      vipBesideSshd: 'mesh on 22',
      otherVip: 'ECONNREFUSED',
      firstContact: 'mesh on 5432',
      caller: { protocol: 'tcp', remote: { address: '127.30.2.3', port: 22 } },
      afterFlush: 'mesh on 22',
      successor: 'mesh on 22',
      tablesAfter: '',
    },
    stderr,
  )
})

t.test('the table of the VIP listeners, as text', async (t) => {
  const table = vipTable(
    { range: vipRange('10.30.0.0/16', 'fd12:3456:789a::/48'), interfaces: ['docker0'], hasFastPath: false },
    'a1',
  )
  const text = replaceTable(table, { tcp: new Map([[22, 61_022]]), udp: new Map() })
  for (const line of [
    'add rule inet hedgerow_vips_10_30_0_0_16 strangers iifname "docker0" return',
    'add rule inet hedgerow_vips_10_30_0_0_16 guard ip6 daddr fd12:3456:789a::/48 goto strangers',
    'add element inet hedgerow_vips_10_30_0_0_16 tcp_from { 61022 : 22 }',
  ]) {
    t.ok(text.includes(`${line}\n`), line)
  }
  t.notMatch(text, /type nat/, 'no packet of the machine is tracked for it')
  const beside = replaceTable({ ...table, hasFastPath: true }, { tcp: new Map(), udp: new Map() })
  t.match(beside, /kept_entering ip6 daddr fd12:3456:789a::\/48 dnat ip6 to ip6 daddr\n/, 'beside the fast path')
  t.match(
    addPorts(table, [{ protocol: 'udp', asked: 53, listening: 61_053 }]),
    /^flush chain inet hedgerow_vips_10_30_0_0_16 o_a1\n/,
    'nothing is changed in the table of a successor',
  )
  const listed = { nftables: [{ metainfo: {} }, { map: { name: 'tcp_to', elem: [[22, 61_022]] } }] }
  t.same(parsePorts(JSON.stringify(listed)).tcp, new Map([[22, 61_022]]))
})

function world() {
  const log = keptLog()
  const table = new LiteralTable()
  const parts: InterceptParts = {
    table,
    onFlow: ({ socket }) => void socket.end('mesh'),
    clock: systemClock,
    log,
    metrics: openMetrics('agent'),
  }
  return { table, parts, log }
}

t.test(
  'without rights, a name whose port belongs to another program is not prepared, and the program is named',
  async (t) => {
    const server = createServer((socket) => socket.end('other')).listen(0, '0.0.0.0')
    await once(server, 'listening')
    t.teardown(() => server.close())
    const { port } = server.address() as { port: number }
    const { table, parts } = world()
    table.set({ id: 'shop.acme.cart.prod', on: ['edge/a'], ports: [port], vips: { 'any.rr': nextVip() } })
    await using loopback = await LoopbackInterceptor.start({ range: RANGE }, () => NODE_CALLER, parts)
    const target = table.target('shop.acme.cart.prod')
    t.match(
      await loopback.prepare(target),
      new RegExp(`\\(pid ${process.pid}\\) has port ${port}/tcp of every address`),
    )
    t.match(await loopback.obstacles(target), [{ port, protocol: 'tcp' }])
    t.match(loopback.problems(), [{ code: 'PORT_TAKEN', port }])
  },
)

t.test('a service without an instance is refused at the SYN, and back as soon as one runs', async (t) => {
  const port = await freePort()
  const vips = { 'any.rr': nextVip(), '0.pinned': nextVip(), '1.pinned': nextVip() } as const
  const at = (choice: keyof typeof vips) => vipToIPv4(RANGE, vips[choice])
  const { table, parts } = world()
  const set = (states: ('running' | 'starting')[]) =>
    table.set({ id: 'shop.acme.cart.prod', on: ['edge/a', 'edge/b'], states, ports: [port], vips })
  set(['starting', 'starting'])
  await using loopback = await LoopbackInterceptor.start(
    { range: RANGE, asked: allAsked(table) },
    () => NODE_CALLER,
    parts,
  )
  const outcome = (address: string) =>
    Client.connect(port, address).then(
      (client) => (client.socket.destroy(), 'connected'),
      (error: NodeJS.ErrnoException) => error.code,
    )
  t.equal(await loopback.prepare(table.target('shop.acme.cart.prod')), undefined, 'its name is answered all the same')
  t.equal(await outcome(at('any.rr')), 'ECONNREFUSED')
  set(['running', 'starting'])
  await loopback.settled()
  t.equal(await outcome(at('any.rr')), 'connected')
  t.equal(await outcome(at('0.pinned')), 'connected')
  t.equal(await outcome(at('1.pinned')), 'ECONNREFUSED', 'a pinned instance that does not run')
  set(['starting', 'starting'])
  await until(() => loopback.size === 0)
  t.equal(await outcome(at('any.rr')), 'ECONNREFUSED')
})
