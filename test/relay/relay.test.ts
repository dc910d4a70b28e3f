import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { connect } from 'node:tls'
import fc from 'fast-check'
import t from 'tap'
import type { RawConnection } from '../../proxy/paths/contract.ts'
import { RelayListener } from '../../proxy/paths/relays/relay-listener.ts'
import { relayedDialer } from '../../proxy/paths/relays/relayed-dialer.ts'
import { readFromListener, readFromRelay, REFUSALS, refusalOf } from '../../proxy/relay/wire/messages.ts'
import { ConnectionQuotas } from '../../proxy/relay/quotas.ts'
import { openPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { ByteStream } from '../../proxy/tunnel/contract.ts'
import { isMeshError } from '../../src/core/errors.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { connectSecure, createAcceptor } from '../../src/core/identity/peer-tls.ts'
import { nodeIdOf } from '../../src/core/identity/principal.ts'
import { serverOptions } from '../../src/core/identity/tls.ts'
import { egressOf } from '../../src/core/kit/egress.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { dialUpgrade } from '../../src/core/kit/upgrade.ts'
import { dialBytes, dialText, type Channel } from '../../src/core/kit/websocket.ts'
import { WebSocketAcceptor } from '../../src/core/kit/websocket-acceptor.ts'
import { streamContract } from '../contracts/stream.ts'
import { TestMesh } from '../identity/mesh.ts'
import { Program } from '../../src/lab/program.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { credentialsOf, RelaySite } from './site.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

await using mesh = await TestMesh.create()
const core = await mesh.cluster('core')
const edge = await mesh.cluster('edge')
const n1 = await mesh.node(edge, 'n1')
const n2 = await mesh.node(edge, 'n2')
const n3 = await mesh.node(core, 'n3')
const forever = new AbortController().signal
const HTTP_PROXY = join(import.meta.dirname, '../../src/lab/http-proxy.ts')
const MARKER = 'the combination is 4711'

const idOf = ({ principal }: HeldIdentity) => (principal.role === 'node' ? nodeIdOf(principal) : '')
const reach = (node: HeldIdentity, ...relays: string[]) => ({ id: idOf(node), addresses: [], relays })
const dial = (from: HeldIdentity, to: HeldIdentity, url: string, signal = forever) =>
  relayedDialer({ credentials: credentialsOf(from) }).dial(reach(to, url), signal)
const control = (node: HeldIdentity, url: string) => dialText(`${url}?listen`, credentialsOf(node)(), forever)
const take = (node: HeldIdentity, url: string, nonce: string) =>
  dialBytes(`${url}?take=${nonce}`, credentialsOf(node)(), forever)
const refusedAs = (reason: string) => ({ code: 'RELAY_REFUSED', details: { reason } })

/** Listens for one node, and hands out what comes, in order. */
async function listenAt(site: RelaySite, node: HeldIdentity) {
  const came: RawConnection[] = []
  const waiting: ((raw: RawConnection) => void)[] = []
  const listener = RelayListener.start(
    {
      url: site.url,
      credentials: credentialsOf(node),
      onConnection: (raw) => {
        const next = waiting.shift()
        if (next === undefined) came.push(raw)
        else next(raw)
      },
    },
    silentLog,
  )
  await site.knows(idOf(node))
  return {
    next: () =>
      new Promise<RawConnection>((resolve) => resolve(came.shift() ?? new Promise((later) => waiting.push(later)))),
    listener,
    [Symbol.asyncDispose]: () => listener[Symbol.asyncDispose](),
  }
}

/** A connection through the relay, before any TLS inside. */
async function meet(site: RelaySite, from: HeldIdentity, to: HeldIdentity) {
  const channel = await control(to, site.url)
  const nonce = nonceAt(channel)
  const [dialled, taken] = await Promise.all([
    dial(from, to, site.url),
    nonce.then((nonce) => take(to, site.url, nonce)),
  ])
  return { dialled: dialled.stream, taken, channel }
}

function nonceIn(text: string): string {
  const message = readFromRelay(text)
  return message.type === 'incoming' ? message.nonce : ''
}

function nonceAt(channel: Channel): Promise<string> {
  return new Promise((resolve) => channel.onText((text) => resolve(nonceIn(text))))
}

t.test('two nodes exchange data through a relay that cannot read it', async (t) => {
  await using site = await RelaySite.start(core)
  await using far = await listenAt(site, n2)
  using acceptor = createAcceptor(n2)
  const [raw, taken] = await Promise.all([dial(n1, n2, site.url), far.next()])
  const seen: Buffer[] = []
  site.watch(seen)
  t.match(raw, { path: 'relayed', via: site.url }, 'the dialling node has a relayed connection')
  t.match(taken, { path: 'relayed', via: site.url }, 'the listening node has a relayed connection')
  t.equal(await site.open(), 1, 'one connection is open at the relay')

  const [near, { peer, stream }] = await Promise.all([
    connectSecure(raw.stream, n1, 'edge/n2', forever),
    acceptor.accept(taken.stream),
  ])
  t.equal(peer, 'edge/n1', 'the listening node knows who dialled')
  const there = Buffer.concat([Buffer.from(MARKER), randomBytes(700_000), Buffer.from(MARKER)])
  const back = Buffer.concat([randomBytes(500_000), Buffer.from(MARKER)])
  const arrivals = [arrive(stream, there.length), arrive(near, back.length)]
  near.write(there)
  stream.write(back)
  const [gotThere, gotBack] = await Promise.all(arrivals)
  t.ok(gotThere?.equals(there), 'every byte arrives there')
  t.ok(gotBack?.equals(back), 'every byte arrives on the way back')

  const passed = Buffer.concat(seen)
  t.ok(passed.length > there.length + back.length, 'all of it passed through the relay')
  t.notOk(passed.includes(MARKER), 'none of it could be read at the relay')
  t.ok((await site.bytes()) >= passed.length, 'the bytes are counted')
  near.destroy()
  await closed(stream)
  await site.until(async () => (await site.open()) === 0)
})

t.test('without inner TLS the plain text is visible at the relay, so the check above can fail', async (t) => {
  await using site = await RelaySite.start(core)
  const { dialled, taken, channel } = await meet(site, n1, n2)
  const seen: Buffer[] = []
  site.watch(seen)
  dialled.write(MARKER)
  await arrive(taken, MARKER.length)
  t.ok(Buffer.concat(seen).includes(MARKER), 'the plain text is seen at the relay')
  dialled.destroy()
  channel.close()
})

t.test('legs of both kinds are paired, and both are WebSockets where the plain upgrade is unknown', async (t) => {
  await using site = await RelaySite.start(core)
  const plain = await meet(site, n1, n2) // a plain leg, and the WebSocket that `take` dials
  plain.dialled.write(MARKER)
  t.equal((await arrive(plain.taken, MARKER.length)).toString(), MARKER, 'a plain leg and a WebSocket are paired')
  plain.taken.write(MARKER)
  t.equal((await arrive(plain.dialled, MARKER.length)).toString(), MARKER, 'bytes pass the other way too')
  plain.dialled.destroy()

  await using eager = await RelaySite.start(core, {}, 0, { knowsBytes: false })
  const framed = await meet(eager, n1, n2)
  framed.dialled.write(MARKER)
  t.equal((await arrive(framed.taken, MARKER.length)).toString(), MARKER, 'two WebSockets are paired')
  framed.dialled.destroy()
})

t.test('a node whose only way out is an HTTP proxy reaches the relay through it', async (t) => {
  await using site = await RelaySite.start(core)
  const port = await freePort()
  const program = Program.start([process.execPath, HTTP_PROXY, '127.0.0.1', String(port)])
  await using _proxy = program
  const inside = egressOf({ HTTPS_PROXY: `http://127.0.0.1:${port}` })
  const through = (node: HeldIdentity) => () => ({ ...credentialsOf(node)(), egress: inside })
  await until(() => program.lines.includes('ready'))

  const channel = await dialText(`${site.url}?listen`, through(n2)(), forever)
  const nonce = nonceAt(channel)
  const dialling = relayedDialer({ credentials: through(n1) }).dial(reach(n2, site.url), forever)
  const taken = await dialUpgrade(`${site.url}?take=${await nonce}`, through(n2)(), forever)
  const { stream: dialled } = await dialling
  dialled.write(MARKER)
  t.equal((await arrive(taken, MARKER.length)).toString(), MARKER, 'control channel and both legs go through it')
  dialled.destroy()
  channel.close()

  await program.stop()
  await t.rejects(
    dialText(`${site.url}?listen`, through(n2)(), forever),
    { code: 'NOT_RUNNING' },
    'without the proxy the relay is not reached',
  )
  t.equal(egressOf({}), undefined, 'where no proxy is named there is none')
  const except = egressOf({ https_proxy: `http://127.0.0.1:${port}`, no_proxy: '127.0.0.1' })
  ;(await dialText(`${site.url}?listen`, { ...credentialsOf(n2)(), egress: except }, forever)).close()
})

t.test('everything before an end arrives, and then both legs close', async (t) => {
  await using site = await RelaySite.start(core)
  const { dialled, taken, channel } = await meet(site, n1, n2)
  const all = randomBytes(1_500_000)
  const got = hashOf(taken)
  dialled.end(all)
  t.equal(await got, createHash('sha256').update(all).digest('hex'), 'every byte before the end arrives')
  dialled.resume()
  await site.until(async () => (await site.open()) === 0)
  channel.close()
})

t.test('a revoked node loses all its connections through the relay', async (t) => {
  await using site = await RelaySite.start(core)
  const { dialled, taken, channel } = await meet(site, n1, n2)
  const gone = Promise.all([closed(dialled), closed(taken), new Promise<string>((resolve) => channel.onClose(resolve))])
  site.relay.cut(idOf(n2))
  t.match(await gone, { 2: 'revoked' }, 'the control channel closes because the node is revoked')
  await site.until(async () => (await site.open()) === 0)
})

t.test('a slow reader slows the writer, and the relay buffers little', async (t) => {
  await using site = await RelaySite.start(core)
  const { dialled, taken, channel } = await meet(site, n1, n2)
  const total = 12 * 1024 * 1024
  const chunk = randomBytes(64 * 1024)
  let held = 0
  const check = () => {
    for (const leg of site.legs) held = Math.max(held, leg.writableLength + leg.readableLength)
  }
  const [wrote, read] = [createHash('sha256'), createHash('sha256')]
  const writing = (async () => {
    for (let sent = 0; sent < total; sent += chunk.length) {
      chunk.writeUInt32BE(sent) // no two are equal
      wrote.update(chunk)
      if (!dialled.write(Buffer.from(chunk))) await once(dialled, 'drain')
      check()
    }
  })()
  let got = 0
  for await (const part of taken) {
    got += (part as Buffer).length
    read.update(part as Buffer)
    check()
    for (let turns = 0; turns < 3; turns += 1) await new Promise((resolve) => setImmediate(resolve))
    if (got === total) break
  }
  await writing
  t.equal(got, total, 'all bytes arrive')
  t.equal(read.digest('hex'), wrote.digest('hex'), 'every byte arrives in order')
  t.ok(held < 2 * 1024 * 1024, `the relay holds less than 2 MiB: ${held}`)
  dialled.destroy()
  channel.close()
})

t.test('refusals come at once and give the reason', async (t) => {
  await using site = await RelaySite.start(core, { takeMs: 50 })
  await t.rejects(
    dial(n1, n2, site.url),
    refusedAs('node not connected here'),
    'a node that is not connected cannot be dialled',
  )
  await t.rejects(dial(n1, n1, site.url), refusedAs('node not connected here'), 'a node cannot dial itself')
  const asCluster = relayedDialer({ credentials: credentialsOf(edge) }).dial(reach(n2, site.url), forever)
  await t.rejects(asCluster, refusedAs('not a node'), 'a cluster is refused')
  for (const query of ['', '?', '?to=edge/n2&listen', '?take=', '?take=x', '?other=1', `?to=${'x'.repeat(3_000)}`]) {
    const odd = dialBytes(site.url + query, credentialsOf(n1)(), forever)
    await t.rejects(odd, { code: 'REQUEST_FAILED' }, `the query '${query.slice(0, 30)}' is refused`)
  }
  const stranger = dialBytes(
    `${site.url}?to=edge/n2`,
    { tls: { ca: mesh.ca, checkServerIdentity: () => undefined } },
    forever,
  )
  await t.rejects(
    stranger,
    { code: 'REQUEST_FAILED', details: { status: 401 } },
    'a stranger without a certificate is refused',
  )

  const channel = await control(n2, site.url)
  await t.rejects(
    dial(n1, n2, site.url),
    refusedAs('not taken in time'),
    'a listener that does not come in time is told as the reason',
  )
  channel.onText((text) => channel.send(JSON.stringify({ type: 'refuse', nonce: nonceIn(text) })))
  await t.rejects(dial(n1, n2, site.url), refusedAs('refused by the node'), 'the reason is that the node refused')
  channel.close()

  await t.rejects(
    dial(n1, n2, 'wss://127.0.0.1:1/relay'),
    { code: 'NOT_RUNNING' },
    'where no relay runs, the error says so',
  )
  const several = relayedDialer({ credentials: credentialsOf(n1) })
  t.notOk(several.suits(reach(n2)), 'a node without relays does not suit')
  t.ok(several.suits(reach(n2, site.url)), 'a node with a relay suits')
  await t.rejects(
    several.dial(reach(n2, 'wss://127.0.0.1:1/relay', site.url), forever),
    { code: 'RELAY_REFUSED' },
    'when the last relay refuses, its reason is given',
  )
  await using far = await listenAt(site, n2)
  const [raw] = await Promise.all([several.dial(reach(n2, 'wss://127.0.0.1:1/relay', site.url), forever), far.next()])
  t.equal(raw.via, site.url, 'the next relay is tried')
  const gone = new AbortController()
  gone.abort(new Error('enough'))
  await t.rejects(dial(n1, n2, site.url, gone.signal), 'a dial whose signal is aborted ends')
})

t.test('an invalid upgrade is answered and keeps no resources', async (t) => {
  await using site = await RelaySite.start(core, { pair: 1 })
  const channel = await control(n2, site.url)
  const nonce = nonceAt(channel)
  const socket = connect({
    host: '127.0.0.1',
    port: site.port,
    key: n1.key,
    cert: n1.chain,
    ca: mesh.ca,
    checkServerIdentity: () => undefined,
  })
  socket.write('GET /relay?to=edge/n2 HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n')
  await t.rejects(
    take(n2, site.url, await nonce),
    { code: 'REQUEST_FAILED', details: { status: 410 } },
    'the nonce of the invalid upgrade leads nowhere',
  )
  t.match(await text(socket), /^HTTP\/1\.1 400 /, 'an upgrade without a WebSocket key is answered with 400')
  const again = nonceAt(channel)
  const [raw, taken] = await Promise.all([dial(n1, n2, site.url), again.then((nonce) => take(n2, site.url, nonce))])
  raw.stream.destroy()
  taken.destroy()
  channel.close()
})

t.test('a nonce is valid once and for its node only', async (t) => {
  await using site = await RelaySite.start(core)
  const channel = await control(n2, site.url)
  const nonce = nonceAt(channel)
  const dialling = dial(n1, n2, site.url)
  const gone = { code: 'REQUEST_FAILED', details: { status: 410 } }
  await t.rejects(take(n3, site.url, await nonce), gone, 'another node cannot use it')
  await t.rejects(take(n1, site.url, await nonce), gone, 'the node that dials cannot use it')
  await t.rejects(take(n2, site.url, 'f'.repeat(32)), gone, 'a guessed nonce leads nowhere')
  const taken = await take(n2, site.url, await nonce)
  await dialling
  await t.rejects(take(n2, site.url, await nonce), gone, 'it cannot be used a second time')
  taken.destroy()
  channel.close()
})

t.test('quotas count per dialling node, accepting node and pair', async (t) => {
  const places = new ConnectionQuotas({ total: 6, dialled: 4, accepted: 5, pair: 2 })
  const taken = [places.take('a', 'x'), places.take('a', 'x')]
  t.notOk(places.take('a', 'x'), 'a pair may have two connections')
  taken.push(places.take('a', 'y'), places.take('a', 'z'))
  t.notOk(places.take('a', 'w'), 'a node may dial four connections')
  taken.push(places.take('b', 'x'), places.take('b', 'x'))
  t.ok(
    taken.every((leave) => leave !== undefined),
    'six connections within the quotas are taken',
  )
  t.notOk(places.take('c', 'v'), 'six connections are all there may be')
  taken[0]?.()
  taken[0]?.()
  t.ok(places.take('c', 'x'), 'a place that is free again can be taken')
  t.notOk(places.take('c', 'v'), 'only one place was free, though it was given back twice')
  taken[1]?.()
  const busy = new ConnectionQuotas({ total: 9, dialled: 9, accepted: 2, pair: 9 })
  t.ok(busy.take('a', 'x') && busy.take('b', 'x'), 'a node accepts as many as it may')
  t.notOk(busy.take('c', 'x'), 'a node may accept two connections')
})

t.test('the relay refuses what exceeds a quota', async (t) => {
  await using site = await RelaySite.start(core, { pair: 2 })
  const channel = await control(n2, site.url)
  const nonces: string[] = []
  channel.onText((text) => nonces.push(nonceIn(text)))
  const give = new AbortController()
  const first = dial(n1, n2, site.url)
  const second = dial(n1, n2, site.url, give.signal)
  second.catch(() => undefined)
  await site.until(() => nonces.length === 2)
  await t.rejects(
    dial(n1, n2, site.url),
    refusedAs('too many connections'),
    'the third connection of the pair is refused',
  )
  const other = dial(n3, n2, site.url)
  await site.until(() => nonces.length === 3)
  const ours = await take(n2, site.url, nonces[2] ?? '')
  t.ok(await other, 'another node still comes in')

  give.abort(new Error('gave up'))
  await t.rejects(second, 'the dial that was given up ends')
  let isIn = false
  while (!isIn) {
    // the relay hears of it a moment later
    const again = dial(n1, n2, site.url)
    const before = nonces.length
    isIn = await Promise.race([
      again.then(
        () => true,
        () => false,
      ),
      site.until(() => nonces.length > before).then(() => true),
    ])
    again.catch(() => undefined)
  }
  t.pass('a dial that gives up gives its place back')
  const taken = await take(n2, site.url, nonces[0] ?? '')
  t.ok(await first, 'the first dial gets its connection')
  for (const stream of [ours, taken]) stream.destroy()
  channel.close()
})

t.test('a newer control channel of the same node takes over', async (t) => {
  await using site = await RelaySite.start(core)
  const older = await control(n2, site.url)
  const why = new Promise<string>((resolve) => older.onClose(resolve))
  const newer = await control(n2, site.url)
  t.equal(await why, 'replaced', 'the older channel closes because it is replaced')
  t.same([...site.relay.listening], ['edge/n2'], 'the node is listed once')
  const nonce = nonceAt(newer)
  const [raw, taken] = await Promise.all([dial(n1, n2, site.url), nonce.then((nonce) => take(n2, site.url, nonce))])
  raw.stream.destroy()
  taken.destroy()
  newer.close()
  await site.until(() => [...site.relay.listening].length === 0)
  await t.rejects(
    dial(n1, n2, site.url),
    refusedAs('node not connected here'),
    'when the newer channel has closed, nobody is connected',
  )
})

const GARBAGE = fc.oneof(fc.string(), fc.json(), fc.constant(JSON.stringify({ type: 'refuse', nonce: 'a'.repeat(33) })))

t.test('garbage on a control channel is always treated as a malformed message', async (t) => {
  const nonce = 'a'.repeat(32)
  const refuse = { type: 'refuse', nonce }
  t.same(readFromListener(JSON.stringify(refuse)), refuse, 'a message of a listener is read')
  const incoming = { type: 'incoming', from: 'edge/n1', nonce }
  t.same(readFromRelay(JSON.stringify(incoming)), incoming, 'a message of a relay is read')
  fc.assert(
    fc.property(GARBAGE, (text) => {
      for (const read of [readFromListener, readFromRelay]) {
        try {
          read(text)
          t.fail(`accepted ${text}`)
        } catch (error) {
          t.ok(isMeshError(error, 'MESSAGE_INVALID'), 'garbage is refused as MESSAGE_INVALID')
        }
      }
    }),
    { numRuns: 60 },
  )
  const long = JSON.stringify({ ...incoming, from: 'e'.repeat(1_000) })
  t.throws(() => readFromRelay(long), { code: 'MESSAGE_INVALID' }, 'a message that is too long is refused')
})

t.test('garbage closes the control channel of its sender and no other', async (t) => {
  await using site = await RelaySite.start(core)
  await using far = await listenAt(site, n2)
  await fc.assert(
    fc.asyncProperty(GARBAGE, async (text) => {
      const channel = await control(n3, site.url)
      const why = new Promise<string>((resolve) => channel.onClose(resolve))
      channel.send(text)
      t.equal(await why, 'malformed message', 'the sender is told why its channel is closed')
    }),
    { numRuns: 15 },
  )
  const [raw] = await Promise.all([dial(n1, n2, site.url), far.next()])
  t.ok(raw, 'the channel of another node still brings connections')
  raw.stream.destroy()
})

t.test('after garbage from a relay the listener reconnects and accepts nothing from it', async (t) => {
  const acceptor = new WebSocketAcceptor()
  const lines = ['{', '"x"', '{"type":"incoming"}', 'x'.repeat(5_000)]
  const { promise, resolve } = Promise.withResolvers<void>()
  const why: string[] = []
  const server = createServer(serverOptions(core, { requestClient: true }))
  server.on('upgrade', (request, socket: Duplex, head) => {
    t.match(request.url, /\?listen/, 'the listener asks to listen')
    acceptor.acceptText({ request, socket, head, peer: 'edge/n1' }, (channel) => {
      channel.onClose((reason) => {
        why.push(reason)
        if (lines.length === 0) resolve()
      })
      channel.send(lines.shift() ?? '')
    })
  })
  const port = await listening(server)
  const onConnection = () => t.fail('no connection was announced')
  await using listener = RelayListener.start(
    { url: `wss://127.0.0.1:${port}/relay`, credentials: credentialsOf(n2), onConnection, random: () => 0 },
    silentLog,
  )
  await promise
  t.ok(listener, 'the listener has come back after each of them')
  t.same(new Set(why), new Set(['malformed message']), 'it closes each channel because of a malformed message')
  server.closeAllConnections()
  server.close()
})

t.test('the listener reconnects when the relay is back', async (t) => {
  const first = await RelaySite.start(core)
  const { port } = first
  const far = await listenAt(first, n2)
  await first.until(() => far.listener.isListening)
  await first[Symbol.asyncDispose]()
  await first.until(() => !far.listener.isListening)
  await using second = await RelaySite.start(core, {}, port)
  await second.knows('edge/n2')
  const [raw] = await Promise.all([dial(n1, n2, second.url), far.next()])
  t.ok(raw, 'the listener that came back brings connections')
  raw.stream.destroy()
  await far[Symbol.asyncDispose]()
  await second.until(() => [...second.relay.listening].length === 0)
})

t.test('a closing relay ends its connections and notifies pending legs', async (t) => {
  const site = await RelaySite.start(core)
  const { dialled, taken, channel } = await meet(site, n1, n2)
  const why = new Promise<string>((resolve) => channel.onClose(resolve))
  const waiting = dial(n3, n2, site.url)
  const refused = t.rejects(waiting, refusedAs('relay is closing'), 'a dial that waits is told that the relay closes')
  await nonceAt(channel)
  const ends = [closed(dialled), closed(taken)]
  await site[Symbol.asyncDispose]()
  await Promise.all([refused, ...ends])
  t.equal(await why, 'relay is closing', 'the listener is told that the relay closes')
  t.equal(await site.open(), 0, 'no connection is open')
})

t.test('every refusal has its own status', async (t) => {
  for (const reason of Object.keys(REFUSALS) as (keyof typeof REFUSALS)[])
    t.equal(refusalOf(Number.parseInt(REFUSALS[reason], 10)), reason, `the reason ${reason} is read as it was written`)
  for (const status of [401, 500, undefined, '', '4'])
    t.equal(refusalOf(status), undefined, `the status ${String(status)} is no refusal`)
})

// Streams of a session whose only carrier runs through the relay, TLS inside: half-close, resets and back-pressure too.
streamContract('tunnel through a relay', async (nearEars, farEars) => {
  const site = await RelaySite.start(core)
  const acceptors = [createAcceptor(n1), createAcceptor(n2)] as const
  const accepted = Promise.withResolvers<ByteStream>()
  const opened = Promise.withResolvers<void>()
  const peersOf = (node: HeldIdentity, acceptor: (typeof acceptors)[number]) =>
    openPeers({
      self: idOf(node),
      dialers: [relayedDialer({ credentials: credentialsOf(node) })],
      secure: {
        connect: ({ stream }, peer, signal) => connectSecure(stream, node, peer, signal),
        accept: ({ stream }) => acceptor.accept(stream),
      },
      accept: (incoming) => accepted.resolve(incoming.accept(farEars)),
    })
  const peers = [peersOf(n1, acceptors[0]), peersOf(n2, acceptors[1])] as const
  const listener = RelayListener.start(
    { url: site.url, credentials: credentialsOf(n2), onConnection: (raw) => peers[1].incoming(raw) },
    silentLog,
  )
  await site.knows('edge/n2')
  const session = await peers[0].session(reach(n2, site.url), forever)
  const near = session.open(Buffer.from('request'), {
    opened: () => opened.resolve(),
    refused: (refusal) => opened.reject(new Error(refusal)),
    data: (chunk) => nearEars.data(chunk),
    end: () => nearEars.end(),
    reset: () => nearEars.reset(),
    drain: () => nearEars.drain(),
  })
  await opened.promise
  return {
    near,
    far: await accepted.promise,
    [Symbol.asyncDispose]: async () => {
      await listener[Symbol.asyncDispose]()
      for (const one of peers) await one[Symbol.asyncDispose]()
      for (const acceptor of acceptors) acceptor[Symbol.dispose]()
      await site[Symbol.asyncDispose]()
    },
  }
})

// ── what the tests stand on ──

function arrive(stream: Duplex, bytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let got = 0
    stream.on('data', (chunk: Buffer) => {
      chunks.push(chunk)
      got += chunk.length
      if (got >= bytes) resolve(Buffer.concat(chunks))
    })
    stream.once('close', () => reject(new Error(`closed after ${got} of ${bytes} bytes`)))
  })
}

async function hashOf(stream: Duplex): Promise<string> {
  const hash = createHash('sha256')
  stream.on('data', (chunk: Buffer) => hash.update(chunk))
  await once(stream, 'end')
  return hash.digest('hex')
}

async function text(stream: Duplex): Promise<string> {
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  await closed(stream)
  return Buffer.concat(chunks).toString()
}

function closed(stream: Duplex): Promise<unknown> {
  return new Promise((resolve) => {
    if (stream.destroyed) resolve(undefined)
    stream.once('end', resolve).once('close', resolve).once('error', resolve).resume()
  })
}

async function listening(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}
