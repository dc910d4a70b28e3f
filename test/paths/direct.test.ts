import { once } from 'node:events'
import { connect } from 'node:net'
import type { NetworkInterfaceInfo } from 'node:os'
import { Worker } from 'node:worker_threads'
import fc from 'fast-check'
import t from 'tap'
import { isDialable, localAddresses } from '../../proxy/paths/addresses.ts'
import type { Reachability, RawConnection } from '../../proxy/paths/contract.ts'
import { directDialer, DirectListener } from '../../proxy/paths/direct-path.ts'
import { reachabilityOf, readInterfaces, type OwnNetwork } from '../../proxy/paths/reachability.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { isListenedAt } from '../../src/agent/own-addresses.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { parseHostPort, printHostPort } from '../../src/core/kit/host-port.ts'

const forever = new AbortController().signal
const reach = (...addresses: string[]) => ({ id: 'edge/n2', addresses, relays: [] })

const at = (address: string, internal = false): NetworkInterfaceInfo =>
  ({ address, internal, family: address.includes(':') ? 'IPv6' : 'IPv4' }) as NetworkInterfaceInfo
const lo = [at('127.0.0.1', true), at('::1', true)]

/** The addresses that are listed for a machine with these interfaces, at port 7472. */
const INTERFACES: ReadonlyArray<{
  why: string
  interfaces: NodeJS.Dict<NetworkInterfaceInfo[]>
  loopback?: boolean
  are: string[]
}> = [
  {
    why: 'a machine with one network lists its address there',
    interfaces: { lo, eth0: [at('192.168.1.5')] },
    are: ['192.168.1.5:7472'],
  },
  {
    why: 'IPv4 addresses come first, each family in the order of the system',
    interfaces: { eth0: [at('fd00::5'), at('192.168.1.5')], eth1: [at('2001:db8::1'), at('203.0.113.4')] },
    are: ['192.168.1.5:7472', '203.0.113.4:7472', '[fd00::5]:7472', '[2001:db8::1]:7472'],
  },
  {
    why: 'networks inside the machine, and overlays, are not listed',
    interfaces: Object.fromEntries([
      ...[
        'cni0',
        'cali12ab',
        'cilium_host',
        'flannel.1',
        'docker0',
        'br-9f2a',
        'veth1',
        'virbr0',
        'wg0',
        'tailscale0',
        'tun0',
        'kube-ipvs0',
      ].map((name) => [name, [at('10.0.0.1')]]),
      ['ens3', [at('10.0.0.2')]],
      ['br0', [at('10.0.0.3')]],
      ['wlan0', [at('10.0.0.4')]],
    ]),
    are: ['10.0.0.2:7472', '10.0.0.3:7472', '10.0.0.4:7472'],
  },
  {
    why: 'link-local addresses and excluded ones (our own VIPs) are not listed',
    interfaces: { eth0: [at('169.254.3.4'), at('fe80::1'), at('10.30.0.7'), at('10.1.0.7')] },
    are: ['10.1.0.7:7472'],
  },
  { why: 'loopback is listed when there is nothing else', interfaces: { lo }, are: ['127.0.0.1:7472'] },
  {
    why: 'loopback is listed last when told so',
    interfaces: { lo, eth0: [at('10.1.0.7')] },
    loopback: true,
    are: ['10.1.0.7:7472', '127.0.0.1:7472'],
  },
]

t.test('the listed addresses are those at which this machine can be reached', async (t) => {
  const exclude = (address: string) => address.startsWith('10.30.')
  for (const { why, interfaces, loopback = false, are } of INTERFACES)
    t.same(localAddresses(7472, { interfaces, loopback, exclude }), are, why)
  t.ok(localAddresses(1).length > 0, 'this very machine has at least one address')
})

const loopback = { address: '127.0.0.1', cidr: '127.0.0.1/8', internal: true }
const home = { address: '192.168.1.5', cidr: '192.168.1.5/24', internal: false }
const link = { address: 'fe80::5', cidr: 'fe80::5/64', internal: false }
const six = { address: '2001:db8::5', cidr: '2001:db8::5/64', internal: false }

/** How likely an address can be dialled from a machine with these interfaces; at home, in 192.168.1.0/24, when none are given. */
const DIALLED: ReadonlyArray<{
  why: string
  to: string[]
  from?: OwnNetwork['interfaces']
  isEnclosed?: boolean
  is: Reachability
}> = [
  { why: 'a public address is open, whatever else is listed', to: ['10.9.9.9:1', '203.0.113.5:1'], is: 'open' },
  { why: 'a name may be anywhere, so it is open', to: ['edge.example.org:1'], is: 'open' },
  { why: 'an address of a family that we do not have is unlikely', to: ['[2001:db8:1::1]:1'], is: 'unlikely' },
  {
    why: 'our link-local address alone does not give us IPv6',
    to: ['[2001:db8:1::1]:1'],
    from: [home, link],
    is: 'unlikely',
  },
  {
    why: 'a public address of a family that we have is open',
    to: ['[2001:db8:1::1]:1'],
    from: [home, six],
    is: 'open',
  },
  {
    why: 'an IPv4 address is unlikely where we have only IPv6',
    to: ['203.0.113.5:1'],
    from: [loopback, six],
    is: 'unlikely',
  },
  { why: 'an address in our own network is near', to: ['192.168.1.77:1'], is: 'near' },
  { why: 'an address in another private network is unlikely', to: ['192.168.2.77:1', '10.0.0.1:1'], is: 'unlikely' },
  { why: 'a private network is unlikely from a public address', to: ['192.168.1.77:1'], from: [six], is: 'unlikely' },
  { why: 'an address of this machine is near', to: ['127.0.0.9:1'], is: 'near' },
  {
    why: 'a public address is unlikely where only HTTPS gets out',
    to: ['203.0.113.5:1'],
    isEnclosed: true,
    is: 'unlikely',
  },
  {
    why: 'an address in our own network is near though only HTTPS gets out',
    to: ['192.168.1.77:1'],
    isEnclosed: true,
    is: 'near',
  },
  {
    why: 'a name is unlikely where only HTTPS gets out',
    to: ['edge.example.org:1'],
    isEnclosed: true,
    is: 'unlikely',
  },
  {
    why: 'our own public address is unlikely when the router does not lead back in',
    to: ['198.51.100.1:1'],
    is: 'unlikely',
  },
  { why: 'our own public address is open when the router leads back in', to: ['198.51.100.2:1'], is: 'open' },
  { why: 'a node without addresses is unlikely', to: [], is: 'unlikely' },
  { why: 'what is no address is unlikely', to: ['x'], is: 'unlikely' },
]

t.test('each kind of address is classified by whether it may be dialled', async (t) => {
  const leadsBack = (host: string) => ({ '198.51.100.1': false, '198.51.100.2': true })[host]
  for (const { why, to, from = [loopback, home], isEnclosed = false, is } of DIALLED)
    t.equal(reachabilityOf(to, { interfaces: from, isEnclosed, hairpins: leadsBack }), is, why)
  const here = () => ({ interfaces: readInterfaces(), isEnclosed: true })
  const ofThisMachine = directDialer({ ownNetwork: here }).reachability?.(reach('127.0.0.1:1'))
  t.equal(ofThisMachine, 'near', 'with the real interfaces, the loopback address of this machine is near')
})

t.test('an address at which our own listener would answer is recognised', async (t) => {
  const rows: ReadonlyArray<[listen: string, host: string, port: number, is: boolean]> = [
    ['0.0.0.0', '127.0.0.1', 7472, true],
    ['::', '::1', 7472, true],
    ['0.0.0.0', '127.0.0.1', 7473, false],
    ['0.0.0.0', '203.0.113.77', 7472, false],
    ['127.0.0.1', '127.0.0.1', 7472, true],
    ['127.0.0.1', '127.0.0.2', 7472, false], // another agent of this machine
  ]
  for (const [listen, host, port, is] of rows)
    t.equal(
      isListenedAt({ host: listen, port: 7472 }, host, port),
      is,
      `a listener at ${listen}:7472 ${is ? 'answers' : 'does not answer'} at ${host}:${port}`,
    )
})

t.test('a host and port are parsed, and anything malformed is refused', async (t) => {
  const rows: ReadonlyArray<[string, ReturnType<typeof parseHostPort>]> = [
    ['10.0.0.1:80', { host: '10.0.0.1', port: 80 }],
    ['[::1]:80', { host: '::1', port: 80 }],
    ['a.example.org:65535', { host: 'a.example.org', port: 65_535 }],
    ['::1:80', undefined],
    ['[10.0.0.1]:80', undefined],
    ['[::1]', undefined],
    ['a:0', undefined],
    ['a:65536', undefined],
    ['a:', undefined],
    [':80', undefined],
    ['a b:80', undefined],
    ['user@a:80', undefined],
    ['a/b:80', undefined],
    ['-a:80', undefined],
    ['', undefined],
  ]
  for (const [text, is] of rows) t.same(parseHostPort(text), is, `'${text}' is ${is ? 'read' : 'refused'}`)
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain()), fc.integer({ min: 1, max: 65_535 }), (host, port) => {
      t.same(parseHostPort(printHostPort(host, port)), { host, port }, 'what is printed is read back')
    }),
    { numRuns: 50 },
  )
})

t.test('only an address that can belong to another machine, or to this one, is dialled', async (t) => {
  for (const address of [
    '0.0.0.0',
    '0.1.2.3',
    '169.254.169.254',
    '224.0.0.1',
    '255.255.255.255',
    '::',
    'fe80::1',
    'febf::1',
    'ff02::1',
    'x',
  ])
    t.notOk(isDialable(address), `${address} is not dialled`)
  for (const address of ['10.0.0.1', '127.0.0.1', '100.64.0.1', '203.0.113.9', '::1', 'fd00::1', '2001:db8::1'])
    t.ok(isDialable(address), `${address} may be dialled`)
})

// ── a dialler tries the addresses of a node in order; `here` answers, at `nobody` connections are refused ──

const met: RawConnection[] = []
await using listener = await DirectListener.start({ host: '127.0.0.1', port: 0 }, (raw) => met.push(raw), silentLog)
const here = `127.0.0.1:${listener.port}`
const nobody = `127.0.0.1:${await freePort()}`

await t.test('dialling an address that answers gives a connection', async (t) => {
  const raw = await directDialer().dial(reach(here), forever)
  t.match(raw, { path: 'direct', via: here }, 'the connection tells the address at which it was made')
  t.ok(raw.stream.allowHalfOpen, 'the dialling side may go on after the end of the other')
  raw.stream.write('hello')
  while (met.length === 0) await turn()
  const [theirs] = met.splice(0)
  t.equal(theirs?.path, 'direct', 'the listener hands over a direct connection')
  t.ok(theirs?.stream.allowHalfOpen, 'the accepting side may go on after the end of the other')
  const [data] = (await once(theirs!.stream, 'data')) as [Buffer]
  t.equal(data.toString(), 'hello', 'what is written arrives at the listener')
  raw.stream.destroy()
  theirs?.stream.destroy()
})

await t.test('when an address refuses, the next is tried at once', async (t) => {
  const clock = { ...systemClock, after: () => () => undefined } // the time alone never ends
  const raw = await directDialer({ clock }).dial(reach(nobody, 'not an address', here), forever)
  t.equal(raw.via, here, 'the address that answers is reached without any timer')
  raw.stream.destroy()
})

await t.test('when an address stays silent, the next is tried beside it after a short delay', async (t) => {
  await using silent = await silence()
  const asked: number[] = []
  const clock: Clock = {
    ...systemClock,
    after: (ms, act) => {
      asked.push(ms)
      return systemClock.after(0, act)
    },
  }
  const raw = await directDialer({ clock }).dial(reach(silent.address, here), forever)
  t.equal(raw.via, here, 'the address that answers is reached')
  t.ok((asked[0] ?? 0) >= 100 && (asked[0] ?? 0) <= 250, `the delay is between 100 and 250 ms: ${asked[0]}`)
  raw.stream.destroy()
})

await t.test('a host name is resolved and dialled', async (t) => {
  const raw = await directDialer().dial(reach(`localhost:${listener.port}`, here), forever)
  t.match(raw.via, /^(127\.0\.0\.1|\[::1\]):/, 'the connection tells the address that the name stands for')
  raw.stream.destroy()
})

await t.test('when no address answers, the error of the dialler lists each address and its outcome', async (t) => {
  const failing = directDialer().dial(reach(nobody), forever)
  const refused = { code: 'NO_PATH', details: { tried: { [nobody]: 'ECONNREFUSED' } } }
  await t.rejects(failing, refused, 'the error says that the connection was refused, and where')
})

await t.test('an excluded address is not dialled, by number or by name', async (t) => {
  const dialer = directDialer({ exclude: (address) => address.startsWith('127.') || address === '::1' })
  const excluded = dialer.dial(reach(here, `localhost:${listener.port}`), forever)
  await t.rejects(
    excluded,
    { code: 'NO_PATH' },
    'neither the excluded number nor the name that stands for it is dialled',
  )
  const unfit = directDialer().dial(reach('169.254.169.254:80', '0.0.0.0:80'), forever)
  await t.rejects(unfit, { code: 'NO_PATH' }, 'a link-local address and the unspecified address are not dialled')
})

t.test('an address at which this node itself listens is not dialled', async (t) => {
  const isOwn = (host: string, port: number) => isListenedAt({ host: '127.0.0.1', port: listener.port }, host, port)
  const dialled = directDialer({ isOwn }).dial(reach(here), forever)
  await t.rejects(dialled, { code: 'NO_PATH' }, 'an equal address of a node at another site does not lead back to us')
})

t.test('a dialler suits a node that has an address to dial', async (t) => {
  const dialer = directDialer()
  t.notOk(dialer.suits(reach()), 'not a node without addresses')
  t.notOk(dialer.suits(reach('nonsense')), 'not a node whose only address cannot be read')
  t.ok(dialer.suits(reach(here)), 'a node with an address')
})

await t.test('only the first addresses of a long list are dialled', async (t) => {
  const many = Array.from({ length: 40 }, () => nobody)
  const dialled = directDialer().dial(reach(...many, here), forever)
  await t.rejects(dialled, { code: 'NO_PATH' }, 'the address that would answer, the 41st, is not tried')
})

await t.test('an address at which another node answered is tried last for a while', async (t) => {
  await using other = await DirectListener.start(
    { host: '127.0.0.1', port: 0 },
    ({ stream }) => stream.destroy(),
    silentLog,
  )
  const wrong = `127.0.0.1:${other.port}`
  let now = 0
  const dialer = directDialer({ clock: { ...systemClock, now: () => now } })
  const via = async (node = 'edge/n2') => {
    const raw = await dialer.dial({ ...reach(wrong, here), id: node }, forever)
    raw.stream.destroy()
    return raw.via
  }
  t.equal(await via(), wrong, 'the first address is tried first')
  dialer.distrust('edge/n2', wrong)
  t.equal(await via(), here, 'the distrusted address comes after the other')
  t.equal(await via('edge/n3'), wrong, 'it is distrusted for that node only')
  now = 3_600_000
  t.equal(await via(), wrong, 'an hour later it is tried first again')
  dialer.distrust('edge/n2', wrong)
  dialer.distrust('edge/n2', here)
  t.equal(await via(), wrong, 'an address is dialled even when all are distrusted')
})

await t.test('an abort signal ends dialling', async (t) => {
  const gone = new AbortController()
  gone.abort(new Error('enough'))
  const late = directDialer().dial(reach(here), gone.signal)
  await t.rejects(late, { message: 'enough' }, 'a signal that was aborted before ends it at once')
  const later = new AbortController()
  const clock: Clock = {
    ...systemClock,
    after: () => {
      later.abort(new Error('changed my mind'))
      return () => undefined
    },
  }
  await using silent = await silence()
  const hanging = directDialer({ clock }).dial(reach(silent.address), later.signal)
  await t.rejects(hanging, { message: 'changed my mind' }, 'a signal that is aborted meanwhile ends it too')
})

for (const { stream } of met) stream.destroy()

t.test('a listener reports a taken port, and closing it keeps the connections it has handed over', async (t) => {
  const nothing = () => undefined
  const listener = await DirectListener.start(
    { host: '127.0.0.1', port: 0 },
    ({ stream }) => stream.resume(),
    silentLog,
  )
  const { port } = listener
  const taken = DirectListener.start({ host: '127.0.0.1', port }, nothing, silentLog)
  const failed = { code: 'LISTEN_FAILED', details: { address: `127.0.0.1:${port}` } }
  await t.rejects(taken, failed, 'a second listener at the port fails, and the error names the address')
  const client = connect({ host: '127.0.0.1', port })
  await once(client, 'connect')
  await listener[Symbol.asyncDispose]()
  const dialled = directDialer().dial(reach(`127.0.0.1:${port}`), forever)
  await t.rejects(dialled, { code: 'NO_PATH' }, 'nobody listens at the port any more')
  t.notOk(client.destroyed, 'the connection that was handed over goes on')
  client.destroy()
})

// ── what the tests stand on ──

t.test('a silent address is dialled again beside the pending attempts, a bounded number of times', async (t) => {
  await using silent = await silence()
  const quick: Clock = { ...systemClock, after: (_ms, act) => systemClock.after(0, act) }
  const sockets = () => process.getActiveResourcesInfo().filter((kind) => kind === 'TCPSocketWrap').length
  const before = sockets()
  const giveUp = new AbortController()
  const dialled = directDialer({ clock: quick }).dial(reach(silent.address), giveUp.signal)
  while (sockets() - before < 12) await turn()
  for (let left = 20; left > 0; left--) await turn()
  t.equal(sockets() - before, 12, 'twelve attempts are pending, and no more are made')
  giveUp.abort(new Error('enough'))
  await t.rejects(dialled, /enough/, 'giving up ends the dialling')
  await turn()
  await turn()
  t.equal(sockets(), before, 'no socket of the attempts is left')
})

/** An address where connections hang: a listener that sleeps, with its queue full. */
async function silence(): Promise<AsyncDisposable & { address: string }> {
  const sleeper = new Worker(
    `const { parentPort } = require('node:worker_threads')
     const server = require('node:net').createServer()
     server.listen({ host: '127.0.0.1', port: 0, backlog: 1 }, () => {
       parentPort.postMessage(server.address().port)
       Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
     })`,
    { eval: true },
  )
  const [port] = (await once(sleeper, 'message')) as [number]
  const queue = Array.from({ length: 2 }, () => connect({ host: '127.0.0.1', port }).on('error', () => undefined))
  await Promise.all(queue.map((socket) => once(socket, 'connect')))
  return {
    address: `127.0.0.1:${port}`,
    [Symbol.asyncDispose]: async () => {
      for (const socket of queue) socket.destroy()
      await sleeper.terminate()
    },
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
