import { randomBytes } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import t from 'tap'
import { hairpinByTcp } from '../../proxy/paths/nat/hairpin.ts'
import { NatDiscovery, type NatDiscoveryOptions } from '../../proxy/paths/nat/discovery.ts'
import { UdpQueries } from '../../proxy/paths/nat/observe-udp.ts'
import { Observers } from '../../proxy/paths/nat/observers.ts'
import { SharedPort } from '../../proxy/paths/shared-port.ts'
import { encodeAnswer } from '../../proxy/relay/wire/observation.ts'
import { Observer } from '../../proxy/relay/observer.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'

/*
 * What a node learns of its network from relays, on loopback: there is no NAT here, and one that is pretended (`isOwn`) leads
 * back in. What real routers do is in test/lab.
 */

const forever = new AbortController().signal

async function udpSocket(host: string): Promise<Socket> {
  const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4')
  socket.bind(0, host)
  await once(socket, 'listening')
  return socket
}

/** An observation with a datagram port, as agents have it. */
async function observation(options: Partial<NatDiscoveryOptions> = {}) {
  const udp = await udpSocket('127.0.0.1')
  const it = await NatDiscovery.start({
    hosts: { ipv4: '127.0.0.1' },
    isOwn: () => false,
    isPublic: () => true,
    udp: { send: (bytes, to) => udp.send(bytes, to.port, to.host, () => undefined) },
    clock: systemClock,
    log: silentLog,
    ...options,
  })
  udp.on('message', (packet) => it.receive(packet))
  return {
    it,
    udpPort: udp.address().port,
    [Symbol.asyncDispose]: async () => {
      await it[Symbol.asyncDispose]()
      await new Promise<void>((resolve) => udp.close(() => resolve()))
    },
  }
}

function welcome(observer: Observer, seen = '127.0.0.1') {
  return { type: 'welcome', seen, observer: observer.admit() } as const
}

t.test('a node learns its public address and NAT behavior from relays', async (t) => {
  await using observer = await Observer.start({ host: '127.0.0.1', port: 0 }, silentLog)
  await using ours = await observation()
  const { it } = ours
  t.notOk(it.receive(Buffer.from('no answer')), 'a packet that is no answer is not taken')
  t.equal(it.of('ipv4').tcp.mapping, 'unknown')
  await t.rejects(it.openPort('ipv4', forever), { code: 'NO_PATH' }, 'nobody tells')
  it.addRelay('wss://127.0.0.1:1/relay', welcome(observer))
  await it.refresh()
  const sight = it.of('ipv4')
  t.same(sight.tcp, { mapping: 'endpoint-independent', filtering: 'address-dependent' })
  t.same(sight.udp, { mapping: 'endpoint-independent', filtering: 'address-dependent' })
  t.equal(sight.observers, 1, 'one address has looked')
  t.same(sight.hairpin, { tcp: true, udp: true }, 'what is sent to our address outside comes back in')
  t.equal(it.hairpins('127.0.0.1'), true)
  t.equal(it.hairpins('127.0.0.2'), undefined, 'somebody else’s address')
  t.same(it.udpAddresses, [`127.0.0.1:${ours.udpPort}`])
  using seen = await it.openPort('ipv4', forever)
  t.equal(seen.address, `127.0.0.1:${seen.port.port}`)
  it.networkChanged()
  t.same(it.udpAddresses, [], 'what was known of another network does not count')
  t.equal(it.hairpins('127.0.0.1'), undefined)
})

t.test('a relay that reports an address inside our own network makes us connect nowhere', async (t) => {
  await using observer = await Observer.start({ host: '127.0.0.1', port: 0 }, silentLog)
  const hosts: string[] = []
  await using ours = await observation({ isPublic: (host) => hosts.push(host) === 0 })
  ours.it.addRelay('wss://127.0.0.1:1/relay', welcome(observer))
  await ours.it.refresh()
  t.same(hosts, ['127.0.0.1'], 'asked about it')
  t.match(ours.it.of('ipv4'), { tcp: { mapping: 'endpoint-independent' }, hairpin: {} }, 'nothing is measured')
  t.equal(ours.it.of('ipv4').hairpin.tcp, undefined)
})

t.test('what a lost datagram left unknown is measured at the next refresh', async (t) => {
  await using observer = await Observer.start({ host: '127.0.0.1', port: 0 }, silentLog)
  const udp = await udpSocket('127.0.0.1')
  let isLossy = true
  const send = (bytes: Buffer, to: { host: string; port: number }) =>
    isLossy ? undefined : udp.send(bytes, to.port, to.host, () => undefined)
  await using ours = await observation({ udp: { send } })
  udp.on('message', (packet) => ours.it.receive(packet))
  ours.it.addRelay('wss://127.0.0.1:1/relay', welcome(observer))
  await ours.it.refresh()
  t.same(ours.it.of('ipv4').hairpin, { tcp: true }, 'over UDP nothing came back')
  isLossy = false
  await ours.it.refresh()
  t.same(ours.it.of('ipv4').hairpin, { tcp: true, udp: true })
  await new Promise<void>((resolve) => udp.close(() => resolve()))
})

t.test('a relay that comes up during a refresh is asked before that ends', async (t) => {
  await using near = await Observer.start({ host: '127.0.0.1', port: 0 }, silentLog)
  await using far = await Observer.start({ host: '127.0.0.2', port: 0 }, silentLog)
  await using ours = await observation({ udp: undefined })
  ours.it.addRelay('wss://127.0.0.1:1/relay', welcome(near))
  const refreshing = ours.it.refresh()
  ours.it.addRelay('wss://127.0.0.2:1/relay', welcome(far))
  await refreshing
  t.equal(ours.it.of('ipv4').observers, 2)
})

t.test('observers at two relays are asked, and a missing one does not spoil the result', async (t) => {
  await using near = await Observer.start({ host: '127.0.0.1', port: 0 }, silentLog)
  const far = await Observer.start({ host: '127.0.0.2', port: 0 }, silentLog)
  await using ours = await observation({ udp: undefined })
  const { it } = ours
  it.addRelay('wss://127.0.0.2:1/relay', welcome(far))
  it.addRelay('wss://127.0.0.1:1/relay', welcome(near))
  await it.refresh()
  t.equal(it.of('ipv4').observers, 2)
  t.equal(it.of('ipv4').tcp.mapping, 'endpoint-independent')
  await far[Symbol.asyncDispose]()
  await it.refresh()
  t.match(it.of('ipv4'), { observers: 1, tcp: { mapping: 'endpoint-independent' } }, 'the other has two ports')
  using seen = await it.openPort('ipv4', forever)
  t.match(seen.address, /^127\.0\.0\.1:/, 'and tells where a port is seen')
})

t.test('observers are chosen by two addresses before two ports, and in the wanted family only', async (t) => {
  const observers = new Observers()
  const report = (host: string, port: number) =>
    observers.add(`wss://${host}:443/relay`, { ports: [port, port + 1], cookie: 'ab'.repeat(16) })
  const places = async (family: 'ipv4' | 'ipv6') =>
    (await observers.addresses(family)).map(({ host, port }) => `${host} ${port}`)
  t.same(await places('ipv4'), [])
  report('127.0.0.1', 10)
  t.same(await places('ipv4'), ['127.0.0.1 10', '127.0.0.1 11'])
  t.same(await places('ipv6'), [])
  report('[::1]', 20)
  report('127.0.0.2', 30)
  report('127.0.0.3', 40)
  t.same(await places('ipv4'), ['127.0.0.1 10', '127.0.0.1 11', '127.0.0.2 30', '127.0.0.2 31'], 'two are enough')
  t.same(await places('ipv6'), ['::1 20', '::1 21'])
})

t.test('on IPv6 no NAT is assumed, and a check shows whether strangers reach our port', async (t) => {
  await using observer = await Observer.start({ host: '::1', port: 0 }, silentLog)
  const { server, port } = await listening('::1')
  const look = async (listensAt: number) => {
    await using ours = await observation({
      hosts: { ipv4: '127.0.0.1', ipv6: '::1' },
      isOwn: (host) => host === '::1',
      udp: undefined,
      listensAt: () => listensAt,
    })
    ours.it.addRelay('wss://[::1]:1/relay', welcome(observer, '::1'))
    await ours.it.refresh()
    t.equal(ours.it.of('ipv4').tcp.mapping, 'unknown', 'this observer has no IPv4')
    using seen = await ours.it.openPort('ipv6', forever)
    t.equal(seen.address, `[::1]:${seen.port.port}`)
    return ours.it.of('ipv6')
  }
  t.match(await look(port), { tcp: { mapping: 'none', filtering: 'address-dependent' }, isPortOpen: true, hairpin: {} })
  await new Promise((resolve) => server.close(resolve))
  t.match(await look(port), { tcp: { mapping: 'none' }, isPortOpen: false }, 'nobody listens there')
  t.equal((await look(0)).isPortOpen, undefined, 'not asked while we do not listen')
})

t.test('where only port 443 leads out, the address a relay sees is known but the mapping is not', async (t) => {
  await using ours = await observation()
  ours.it.addRelay('wss://127.0.0.1:1/relay', { type: 'welcome', seen: '203.0.113.9' })
  await ours.it.refresh()
  t.equal(ours.it.addressAtRelay, '203.0.113.9')
  t.match(ours.it.of('ipv4'), { tcp: { mapping: 'unknown' }, observers: 0 }, 'an address says nothing about ports')
})

t.test('when no packet comes back, the NAT does not hairpin', async (t) => {
  const { server, port } = await listening('127.0.0.1')
  await new Promise((resolve) => server.close(resolve))
  using one = new SharedPort('127.0.0.1')
  using other = new SharedPort('127.0.0.1')
  const address = `127.0.0.1:${port}` // where nobody listens
  t.equal(await hairpinByTcp({ port: one, address }, { port: other, address }, forever), false)
  // somebody listens, and it is not us
  const stranger = createServer((socket) => {
    socket.on('error', () => undefined).resume()
    socket.end(randomBytes(16))
  })
  stranger.listen(0, '127.0.0.1')
  await once(stranger, 'listening')
  const there = `127.0.0.1:${(stranger.address() as AddressInfo).port}`
  {
    using third = new SharedPort('127.0.0.1')
    using fourth = new SharedPort('127.0.0.1')
    const met = await hairpinByTcp({ port: third, address: there }, { port: fourth, address: there }, forever)
    t.equal(met, false, 'another’s bytes are not ours')
  }
  await new Promise((resolve) => stranger.close(resolve))
})

t.test('an unsolicited UDP answer changes nothing', async (t) => {
  await using ours = await observation()
  const { it, udpPort } = ours
  const forger = await udpSocket('127.0.0.2')
  const forged = () =>
    encodeAnswer({ host: '203.0.113.66', port: 6_666, token: randomBytes(16).toString('hex'), heard: true })
  for (let i = 0; i < 50; i++) forger.send(forged(), udpPort, '127.0.0.1')
  await using observer = await Observer.start({ host: '127.0.0.1', port: 0 }, silentLog)
  it.addRelay('wss://127.0.0.1:1/relay', welcome(observer))
  const looking = it.refresh()
  for (let i = 0; i < 50; i++) forger.send(forged(), udpPort, '127.0.0.1')
  await looking
  t.same(it.udpAddresses, [`127.0.0.1:${udpPort}`])
  t.notMatch(JSON.stringify(it.of('ipv4')), /203\.0\.113\.66|6666/)
  await new Promise<void>((resolve) => forger.close(() => resolve()))

  const heard: string[] = []
  const questions = new UdpQueries((bytes) => heard.push(bytes.toString('hex', 24, 40)), {
    ...systemClock,
    sleep: async () => undefined,
  })
  const asked = questions.query({ host: '127.0.0.1', port: 1, cookie: 'ab'.repeat(16) }, 0, forever)
  t.ok(questions.receive(forged()), 'it is one, but not ours')
  t.equal(await asked, undefined)
  t.equal(heard.length, 3, 'asked three times at most')
})

async function listening(host: string) {
  const bound = new SharedPort(host)
  const { port } = bound
  bound[Symbol.dispose]()
  // shared, as the agent's own listener is
  const server = createServer((socket) => socket.destroy())
  server.listen({ host, port, reusePort: true })
  await once(server, 'listening')
  return { server, port }
}
