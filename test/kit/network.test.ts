import type { NetworkInterfaceInfo } from 'node:os'
import t from 'tap'
import { isHere, networkOf, readNetwork, whatChanged, type Network } from '../../src/core/kit/network.ts'
import { hasStoodStill, monitorKernel, NetworkWatch, type NetworkChange } from '../../src/core/kit/network-watch.ts'
import { ManualClock } from '../support/manual-clock.ts'

const HEAD = 'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n'
const V4 = `${HEAD}eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\neth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n`
const ZERO = '0'.repeat(32)
const V6 = [
  `${ZERO} 00 ${ZERO} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0`,
  `${ZERO} 00 ${ZERO} 00 ${ZERO} ffffffff 00000001 00000000 00200200       lo`,
  '',
].join('\n')

function info(address: string, internal = false): NetworkInterfaceInfo {
  const family = address.includes(':') ? 'IPv6' : 'IPv4'
  return { address, family, internal, netmask: '', mac: '', cidr: null, scopeid: 0 }
}

const INTERFACES = {
  lo: [info('127.0.0.1', true), info('::1', true)],
  eth0: [info('192.168.1.10'), info('2001:db8::10'), info('fe80::1')],
  docker0: [info('172.17.0.1')],
}
const isOut = (device: string) => device !== 'docker0'
const HOME = networkOf(INTERFACES, { v4: V4, v6: V6 }, isOut)

function elsewhere(changes: { v4?: string; v6?: string; eth0?: string[]; docker0?: string[] }): Network {
  const { v4 = V4, v6 = V6, eth0 = ['192.168.1.10', '2001:db8::10', 'fe80::1'], docker0 = ['172.17.0.1'] } = changes
  const interfaces = { lo: INTERFACES.lo, eth0: eth0.map((a) => info(a)), docker0: docker0.map((a) => info(a)) }
  return networkOf(interfaces, { v4, v6 }, isOut)
}

t.test('a network is its outward addresses and its default routes', async (t) => {
  t.same(HOME.outward, ['192.168.1.10', '2001:db8::10'])
  t.same(HOME.defaults, [
    { family: 'ipv4', device: 'eth0', gateway: '192.168.1.1', metric: 100 },
    { family: 'ipv6', device: 'eth0', gateway: 'fe80:0:0:0:0:0:0:1', metric: 1024 },
  ])
  t.ok(HOME.addresses.has('172.17.0.1'), 'inner addresses are ours too')
  const cut = elsewhere({ v4: 'nonsense\n\n\t\t', v6: 'nonsense' })
  t.same(cut.defaults, [], 'what cannot be read is no route')
  const down = elsewhere({ v4: V4.replace('0003', '0002'), v6: '' })
  t.same(down.defaults, [], 'nor is a route that is down')
  t.ok(readNetwork().addresses.has('127.0.0.1'), 'this machine can be looked at')
})

t.test('addresses and default routes count as a change', async (t) => {
  const rows: Array<{ why: string; after: Network; reason: ReturnType<typeof whatChanged> }> = [
    { why: 'nothing', after: elsewhere({}), reason: undefined },
    { why: 'another order', after: elsewhere({ eth0: ['2001:db8::10', '192.168.1.10'] }), reason: undefined },
    { why: 'a container’s network', after: elsewhere({ docker0: ['172.18.0.1'] }), reason: undefined },
    { why: 'a link-local address', after: elsewhere({ eth0: ['192.168.1.10', '2001:db8::10'] }), reason: undefined },
    { why: 'another lease', after: elsewhere({ eth0: ['192.168.1.77', '2001:db8::10'] }), reason: 'addresses' },
    { why: 'no address left', after: elsewhere({ eth0: [] }), reason: 'addresses' },
    { why: 'another gateway', after: elsewhere({ v4: V4.replace('0101A8C0', '0201A8C0') }), reason: 'route' },
    { why: 'IPv6 is gone', after: elsewhere({ v6: '' }), reason: 'route' },
  ]
  for (const { why, after, reason } of rows) t.equal(whatChanged(HOME, after), reason, why)
})

t.test('an address is recognised as one this machine still has', async (t) => {
  const rows: ReadonlyArray<[address: string, here: boolean]> = [
    ['192.168.1.10', true],
    ['::ffff:192.168.1.10', true],
    ['192.168.1.77', false],
    ['2001:db8::10', true],
    ['fe80::1%eth0', true],
    ['127.30.0.7', true],
    ['::1', true],
    ['::ffff:127.0.0.1', true],
  ]
  for (const [address, here] of rows) t.equal(isHere(HOME, address), here, address)
})

t.test('a jump of the clocks shows that the machine was suspended', async (t) => {
  const rows: ReadonlyArray<[why: string, passed: number, wall: number, slept: boolean]> = [
    ['on time', 1_000, 1_000, false],
    ['a busy machine', 3_500, 3_500, false],
    ['a stopped process', 6_000, 6_000, true],
    ['a suspended machine: its monotonic clock stands', 1_000, 3_600_000, true],
    ['a clock set back', 1_000, -3_600_000, false],
    ['a clock set a little', 1_000, 2_000, false],
  ]
  for (const [why, nowMs, wallMs, slept] of rows)
    t.equal(hasStoodStill({ nowMs: 0, wallMs: 0 }, { nowMs, wallMs }), slept, why)
})

class SettableClock extends ManualClock {
  aheadMs = 0
  override wall(): number {
    return this.now() + this.aheadMs
  }
}

function watched({ isMonitored }: { isMonitored: boolean }) {
  const clock = new SettableClock()
  const world = { network: HOME, reads: 0, report: () => undefined as void, isClosed: false }
  const watch = NetworkWatch.start({
    clock,
    read: () => {
      world.reads += 1
      return world.network
    },
    monitor: ({ onEvent, onEnd }) => {
      world.report = onEvent
      if (!isMonitored) onEnd()
      return {
        [Symbol.dispose]: () => {
          world.isClosed = true
        },
      }
    },
  })
  const changes: NetworkChange[] = []
  watch.onChange((change) => changes.push(change))
  return { clock, world, watch, changes }
}

t.test('a change that the kernel reports is noticed within 200 ms, once', async (t) => {
  const { clock, world, watch, changes } = watched({ isMonitored: true })
  world.network = elsewhere({ eth0: [] })
  for (let message = 0; message < 5; message++) {
    world.report()
    await clock.advance(30)
  }
  t.same(changes, [], 'the change may not be complete yet')
  world.network = elsewhere({ eth0: ['192.168.1.77'] })
  await clock.advance(50)
  t.same(
    changes.map(({ reason, outward }) => [reason, ...outward]),
    [['addresses', '192.168.1.77']],
  )
  world.report()
  await clock.advance(500)
  t.equal(changes.length, 1, 'messages that change nothing are not passed on')
  await watch[Symbol.asyncDispose]()
  t.ok(world.isClosed, 'the monitor ends with the watch')
  world.network = HOME
  world.report()
  await clock.advance(60_000)
  t.equal(changes.length, 1, 'nothing after it was closed')
})

t.test('where the kernel reports nothing, the network is compared every second', async (t) => {
  const { clock, world, watch, changes } = watched({ isMonitored: false })
  t.notOk(watch.isMonitored, 'the watch says that nothing is reported')
  world.network = elsewhere({ v4: V4.replace('0101A8C0', '0201A8C0') })
  await clock.advance(1_000)
  t.same(
    changes.map(({ reason }) => reason),
    ['route'],
  )
  t.equal(watch.network.defaults[0]?.gateway, '192.168.1.2')
  await watch[Symbol.asyncDispose]()
})

t.test('where the kernel reports changes, the network is compared rarely', async (t) => {
  const { clock, world, watch } = watched({ isMonitored: true })
  const { reads } = world
  await clock.advance(60_000)
  t.equal(world.reads - reads, 6)
  await watch[Symbol.asyncDispose]()
})

t.test('waking up is a change, whatever the network looks like', async (t) => {
  const { clock, watch, changes } = watched({ isMonitored: true })
  await clock.advance(5_000)
  clock.aheadMs = 3_600_000
  await clock.advance(1_000)
  t.same(
    changes.map(({ reason }) => reason),
    ['woke'],
  )
  await clock.advance(5_000)
  t.equal(changes.length, 1, 'once')
  await watch[Symbol.asyncDispose]()
})

t.test('the process that reads the kernel’s messages can be started and ended', async (t) => {
  let hasEnded = false
  const monitor = monitorKernel({ onEvent: () => undefined, onEnd: () => (hasEnded = true) })
  t.equal(typeof hasEnded, 'boolean')
  monitor[Symbol.dispose]()
})
