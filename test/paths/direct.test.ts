import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import type { NetworkInterfaceInfo } from 'node:os'
import { Worker } from 'node:worker_threads'
import fc from 'fast-check'
import t from 'tap'
import { isDialable, localAddresses } from '../../proxy/paths/addresses.ts'
import type { Reachability, RawConnection } from '../../proxy/paths/contract.ts'
import { directDialer, DirectListener } from '../../proxy/paths/direct-path.ts'
import { reachabilityOf, readInterfaces, type OwnNetwork } from '../../proxy/paths/reachability.ts'
import { isListenedAt } from '../../src/agent/own-addresses.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { parseHostPort, printHostPort } from '../../src/core/kit/host-port.ts'

const forever = new AbortController().signal
const reach = (...addresses: string[]) => ({ id: 'edge/n2', addresses, relays: [] })

t.test('the listed addresses are those at which this machine can be reached', async (t) => {
  const at = (address: string, internal = false): NetworkInterfaceInfo =>
    ({ address, internal, family: address.includes(':') ? 'IPv6' : 'IPv4' }) as NetworkInterfaceInfo
  const lo = [at('127.0.0.1', true), at('::1', true)]
  const rows: ReadonlyArray<{
    why: string
    interfaces: NodeJS.Dict<NetworkInterfaceInfo[]>
    loopback?: boolean
    are: string[]
  }> = [
    { why: 'a plain machine', interfaces: { lo, eth0: [at('192.168.1.5')] }, are: ['192.168.1.5:7472'] },
    {
      why: 'IPv4 first, the order of the system within',
      interfaces: { eth0: [at('fd00::5'), at('192.168.1.5')], eth1: [at('2001:db8::1'), at('203.0.113.4')] },
      are: ['192.168.1.5:7472', '203.0.113.4:7472', '[fd00::5]:7472', '[2001:db8::1]:7472'],
    },
    {
      why: 'networks inside the machine, and overlays, do not count',
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
      why: 'link-local and our own VIPs do not count',
      interfaces: { eth0: [at('169.254.3.4'), at('fe80::1'), at('10.30.0.7'), at('10.1.0.7')] },
      are: ['10.1.0.7:7472'],
    },
    { why: 'loopback when there is nothing else', interfaces: { lo }, are: ['127.0.0.1:7472'] },
    {
      why: 'loopback when told so',
      interfaces: { lo, eth0: [at('10.1.0.7')] },
      loopback: true,
      are: ['10.1.0.7:7472', '127.0.0.1:7472'],
    },
  ]
  const exclude = (address: string) => address.startsWith('10.30.')
  for (const { why, interfaces, loopback = false, are } of rows)
    t.same(localAddresses(7472, { interfaces, loopback, exclude }), are, why)
  t.ok(localAddresses(1).length > 0, 'this very machine has one')
})

t.test('each kind of address is classified by whether it may be dialled', async (t) => {
  const lo = { address: '127.0.0.1', cidr: '127.0.0.1/8', internal: true }
  const home = { address: '192.168.1.5', cidr: '192.168.1.5/24', internal: false }
  const link = { address: 'fe80::5', cidr: 'fe80::5/64', internal: false }
  const six = { address: '2001:db8::5', cidr: '2001:db8::5/64', internal: false }
  const rows: ReadonlyArray<{
    why: string
    to: string[]
    from?: OwnNetwork['interfaces']
    isEnclosed?: boolean
    is: Reachability
  }> = [
    { why: 'a public address', to: ['10.9.9.9:1', '203.0.113.5:1'], is: 'open' },
    { why: 'a name may be anywhere', to: ['edge.example.org:1'], is: 'open' },
    { why: 'of a family that we do not have', to: ['[2001:db8:1::1]:1'], is: 'unlikely' },
    { why: 'a link-local address is no family', to: ['[2001:db8:1::1]:1'], from: [home, link], is: 'unlikely' },
    { why: 'of a family that we have', to: ['[2001:db8:1::1]:1'], from: [home, six], is: 'open' },
    { why: 'IPv6 only, they IPv4 only', to: ['203.0.113.5:1'], from: [lo, six], is: 'unlikely' },
    { why: 'in our network', to: ['192.168.1.77:1'], is: 'near' },
    { why: 'in another private one', to: ['192.168.2.77:1', '10.0.0.1:1'], is: 'unlikely' },
    { why: 'from a public address into a private network', to: ['192.168.1.77:1'], from: [six], is: 'unlikely' },
    { why: 'on this machine', to: ['127.0.0.9:1'], is: 'near' },
    { why: 'only HTTPS gets out', to: ['203.0.113.5:1'], isEnclosed: true, is: 'unlikely' },
    { why: 'only HTTPS gets out, but it is here', to: ['192.168.1.77:1'], isEnclosed: true, is: 'near' },
    { why: 'only HTTPS gets out, by name', to: ['edge.example.org:1'], isEnclosed: true, is: 'unlikely' },
    { why: 'our own, and nothing leads back in', to: ['198.51.100.1:1'], is: 'unlikely' },
    { why: 'our own, and something does', to: ['198.51.100.2:1'], is: 'open' },
    { why: 'nothing', to: [], is: 'unlikely' },
    { why: 'nonsense', to: ['x'], is: 'unlikely' },
  ]
  const leadsBack = (host: string) => ({ '198.51.100.1': false, '198.51.100.2': true })[host]
  for (const { why, to, from = [lo, home], isEnclosed = false, is } of rows)
    t.equal(reachabilityOf(to, { interfaces: from, isEnclosed, hairpins: leadsBack }), is, why)
  const here = () => ({ interfaces: readInterfaces(), isEnclosed: true })
  t.equal(directDialer({ ownNetwork: here }).reachability?.(reach('127.0.0.1:1')), 'near', 'of this very machine')
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
    t.equal(isListenedAt({ host: listen, port: 7472 }, host, port), is, `${listen} ${host}:${port}`)
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
  for (const [text, is] of rows) t.same(parseHostPort(text), is, text)
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain()), fc.integer({ min: 1, max: 65_535 }), (host, port) => {
      t.same(parseHostPort(printHostPort(host, port)), { host, port })
    }),
    { numRuns: 50 },
  )
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
    t.notOk(isDialable(address), address)
  for (const address of ['10.0.0.1', '127.0.0.1', '100.64.0.1', '203.0.113.9', '::1', 'fd00::1', '2001:db8::1'])
    t.ok(isDialable(address), address)
})

t.test('a dialler tries the addresses of a node in order', async (t) => {
  const met: RawConnection[] = []
  await using listener = await DirectListener.start({ host: '127.0.0.1', port: 0 }, (raw) => met.push(raw), silentLog)
  const here = `127.0.0.1:${listener.port}`
  const nobody = `127.0.0.1:${await freePort()}`

  await t.test('an address that answers gives a connection', async (t) => {
    const raw = await directDialer().dial(reach(here), forever)
    t.match(raw, { path: 'direct', via: here })
    t.ok(raw.stream.allowHalfOpen)
    raw.stream.write('hello')
    while (met.length === 0) await turn()
    const [theirs] = met.splice(0)
    t.equal(theirs?.path, 'direct')
    t.ok(theirs?.stream.allowHalfOpen)
    const [data] = (await once(theirs!.stream, 'data')) as [Buffer]
    t.equal(data.toString(), 'hello')
    raw.stream.destroy()
    theirs?.stream.destroy()
  })

  await t.test('when an address refuses, the next is tried at once', async (t) => {
    const clock = { ...systemClock, after: () => () => undefined } // the time alone never ends
    const raw = await directDialer({ clock }).dial(reach(nobody, 'not an address', here), forever)
    t.equal(raw.via, here)
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
    t.equal(raw.via, here)
    t.ok((asked[0] ?? 0) >= 100 && (asked[0] ?? 0) <= 250)
    raw.stream.destroy()
  })

  await t.test('a host name is resolved and dialled', async (t) => {
    const raw = await directDialer().dial(reach(`localhost:${listener.port}`, here), forever)
    t.match(raw.via, /^(127\.0\.0\.1|\[::1\]):/)
    raw.stream.destroy()
  })

  await t.test('when no address answers, the error lists each address and its outcome', async (t) => {
    const failing = directDialer().dial(reach(nobody), forever)
    await t.rejects(failing, { code: 'NO_PATH', details: { tried: { [nobody]: 'ECONNREFUSED' } } })
  })

  await t.test('an excluded address is not dialled, by number or by name', async (t) => {
    const dialer = directDialer({ exclude: (address) => address.startsWith('127.') || address === '::1' })
    await t.rejects(dialer.dial(reach(here, `localhost:${listener.port}`), forever), { code: 'NO_PATH' })
    await t.rejects(directDialer().dial(reach('169.254.169.254:80', '0.0.0.0:80'), forever), { code: 'NO_PATH' })
    const isOwn = (host: string, port: number) => isListenedAt({ host: '127.0.0.1', port: listener.port }, host, port)
    const met = directDialer({ isOwn }).dial(reach(here), forever)
    await t.rejects(met, { code: 'NO_PATH' }, 'nobody dials himself: an equal address of another site')
    t.notOk(dialer.suits(reach()))
    t.notOk(dialer.suits(reach('nonsense')))
    t.ok(dialer.suits(reach(here)))
  })

  await t.test('the number of addresses dialled is bounded', async (t) => {
    const many = Array.from({ length: 40 }, () => nobody)
    await t.rejects(directDialer().dial(reach(...many, here), forever), { code: 'NO_PATH' })
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
    t.equal(await via(), wrong)
    dialer.distrust('edge/n2', wrong)
    t.equal(await via(), here)
    t.equal(await via('edge/n3'), wrong, 'for that node only')
    now = 3_600_000
    t.equal(await via(), wrong)
    dialer.distrust('edge/n2', wrong)
    dialer.distrust('edge/n2', here)
    t.equal(await via(), wrong, 'it is not given up')
  })

  await t.test('an abort signal ends dialling', async (t) => {
    const gone = new AbortController()
    gone.abort(new Error('enough'))
    await t.rejects(directDialer().dial(reach(here), gone.signal), { message: 'enough' })
    const later = new AbortController()
    const clock: Clock = {
      ...systemClock,
      after: () => {
        later.abort(new Error('changed my mind'))
        return () => undefined
      },
    }
    await using silent = await silence()
    await t.rejects(directDialer({ clock }).dial(reach(silent.address), later.signal), { message: 'changed my mind' })
  })

  for (const { stream } of met) stream.destroy()
})

t.test('a listener reports a taken port, and closing it keeps the connections it has handed over', async (t) => {
  const nothing = () => undefined
  const listener = await DirectListener.start(
    { host: '127.0.0.1', port: 0 },
    ({ stream }) => stream.resume(),
    silentLog,
  )
  const { port } = listener
  const taken = DirectListener.start({ host: '127.0.0.1', port }, nothing, silentLog)
  await t.rejects(taken, { code: 'LISTEN_FAILED', details: { address: `127.0.0.1:${port}` } })
  const client = connect({ host: '127.0.0.1', port })
  await once(client, 'connect')
  await listener[Symbol.asyncDispose]()
  await t.rejects(directDialer().dial(reach(`127.0.0.1:${port}`), forever), { code: 'NO_PATH' }, 'no longer')
  t.notOk(client.destroyed, 'what was handed over goes on')
  client.destroy()
})

// ── what the tests stand on ──

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

async function freePort(): Promise<number> {
  const server = createServer()
  const port = await listen(server)
  server.close()
  await once(server, 'close')
  return port
}

t.test('a silent address is dialled again beside the pending attempts, a bounded number of times', async (t) => {
  await using silent = await silence()
  const quick: Clock = { ...systemClock, after: (_ms, act) => systemClock.after(0, act) }
  const sockets = () => process.getActiveResourcesInfo().filter((kind) => kind === 'TCPSocketWrap').length
  const before = sockets()
  const giveUp = new AbortController()
  const dialled = directDialer({ clock: quick }).dial(reach(silent.address), giveUp.signal)
  while (sockets() - before < 12) await turn()
  for (let left = 20; left > 0; left--) await turn()
  t.equal(sockets() - before, 12)
  giveUp.abort(new Error('enough'))
  await t.rejects(dialled, /enough/)
  await turn()
  await turn()
  t.equal(sockets(), before, 'nothing is left of them')
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
