import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import t from 'tap'
import { Listening } from '../../src/orchestrator/worker/listening.ts'
import { watchReadiness } from '../../src/orchestrator/worker/readiness.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { specOf } from './specs.ts'
import { until } from '../support/until.ts'

const HEAD = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode'
const REST = '00:00000000 00000000     0        0 1 1 0000000000000000 100 0 0 10 0'

t.test('the kernel’s list says who listens and keeps up', async (t) => {
  const v4 = [
    HEAD,
    `   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 ${REST}`, // 127.0.0.1:8080
    `   1: 0100007F:1F91 00000000:0000 0A 00000000:00000003 ${REST}`, // 127.0.0.1:8081, three are waiting
    `   2: 00000000:1F92 00000000:0000 0A 00000000:00000000 ${REST}`, // 0.0.0.0:8082
    `   3: 0100007F:1F93 0100007F:9C40 01 00000000:00000000 ${REST}`, // a connection
    '',
  ].join('\n')
  const v6 = `${HEAD}\n   0: 00000000000000000000000001000000:1F94 ${'0'.repeat(32)}:0000 0A 00000000:00000000 ${REST}\n`
  const looks = { v4: 0, v6: 0 }
  let now = 0
  // in pieces, as the kernel gives it
  const read = (family: 'v4' | 'v6') => ((looks[family] += 1), (family === 'v4' ? v4 : v6).match(/[^]{1,100}/g) ?? [])
  const listening = new Listening({ read, now: () => now })
  const rows: [host: string, port: number, keepsUp: boolean, why: string][] = [
    ['127.0.0.1', 8080, true, 'it listens'],
    ['127.0.0.2', 8080, false, 'on another address'],
    ['127.0.0.1', 8081, true, 'what waits may have come a moment ago'],
    ['127.0.0.9', 8082, true, 'on all addresses'],
    ['127.0.0.1', 8083, false, 'a connection is no listener'],
    ['::1', 8084, true, 'IPv6'],
    ['127.0.0.1', 8085, false, 'nothing'],
    ['192.0.2.1', 8082, false, 'another machine, for all that is known'],
    ['localhost', 8080, false, 'a name'],
    ['127.0.0.300', 8082, false, 'no address'],
  ]
  for (const [host, port, keepsUp, why] of rows)
    t.equal(listening.keepsUp(host, port), keepsUp, `${host}:${port}: ${why}`)
  t.same(looks, { v4: 1, v6: 1 }, 'one look for all')
  now += 1_000
  t.equal(listening.keepsUp('127.0.0.1', 8080), true)
  t.same(
    looks,
    { v4: 2, v6: 1 },
    'an old one does not count, and what is found in one list is not looked for in the other',
  )
  t.equal(listening.keepsUp('127.0.0.1', 8081), false, 'what waited at the look before too is not accepted')
})

t.test('of this machine', { skip: process.platform === 'linux' ? false : 'optional: /proc' }, async (t) => {
  const server = createServer((socket) => socket.resume())
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  t.equal(new Listening().keepsUp('127.0.0.1', port), true)
  server.close()
  await once(server, 'close')
  t.equal(new Listening().keepsUp('127.0.0.1', port), false)
})

t.test('a program that keeps up is connected to every 30 s, one that does not at each check', async (t) => {
  let connections = 0
  const server = createServer((socket) => {
    connections += 1
    socket.on('error', () => undefined).resume()
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  const clock = new ManualClock()
  const ending = new AbortController()
  let keepsUp = true
  const verdicts: boolean[] = []
  const watching = watchReadiness(
    {
      now: () => ({ spec: specOf({ port: '8080', cmd: ['true'] }), changed: new AbortController().signal }),
      endpoints: { 'tcp/8080': { host: '127.0.0.1', port } },
      clock,
      listening: { keepsUp: () => keepsUp },
      onVerdict: (isReady) => verdicts.push(isReady),
    },
    ending.signal,
  )
  const asleep = async () => {
    await until(() => clock.sleepers > 0)
  }
  const checks = async (count: number) => {
    await asleep()
    for (let i = 0; i < count; i++) {
      await clock.advance(2_000)
      await asleep()
    }
  }
  await checks(30)
  t.equal(connections, 3, '31 checks in 60 s')
  keepsUp = false
  await checks(4)
  t.equal(connections, 7, 'the kernel says that it may not keep up')
  keepsUp = true
  const probe = connect({ host: '127.0.0.1', port }) // whatever others do
  probe.on('error', () => undefined).destroy()
  server.close()
  keepsUp = false // the kernel no longer lists it
  await checks(3)
  t.same(verdicts, [true, false], 'three failed checks in a row')
  ending.abort()
  await watching
})
