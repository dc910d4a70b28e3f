import { once } from 'node:events'
import { connect as connectTcp, createServer, type AddressInfo } from 'node:net'
import { duplexPair, type Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import t from 'tap'
import { relayedDialer } from '../../proxy/paths/relays/relayed-dialer.ts'
import { join } from '../../proxy/relay/join.ts'
import { RateLimit } from '../../proxy/relay/rate-limit.ts'
import { readFromRelay, type FromListener } from '../../proxy/relay/wire/messages.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { mayRelay, nodeIdOf } from '../../src/core/identity/principal.ts'
import { clientOptions } from '../../src/core/identity/tls.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import { limitHandshakes } from '../../src/core/kit/handshake-rate.ts'
import { dialBytes, dialText } from '../../src/core/kit/websocket.ts'
import { closed } from '../support/closed.ts'
import { TestMesh } from '../identity/mesh.ts'
import { credentialsOf, RelaySite } from './site.ts'
import { heard } from '../support/heard.ts'

await using mesh = await TestMesh.create()
const edge = await mesh.cluster('edge')
const n1 = await mesh.node(edge, 'n1')
const n2 = await mesh.node(edge, 'n2')
const n3 = await mesh.node(edge, 'n3')
const forever = new AbortController().signal

const idOf = ({ principal }: HeldIdentity) => (principal.role === 'node' ? nodeIdOf(principal) : '')
const reach = (node: HeldIdentity, ...relays: string[]) => ({ id: idOf(node), addresses: [], relays })
const dial = (from: HeldIdentity, to: HeldIdentity, url: string) =>
  relayedDialer({ credentials: credentialsOf(from) }).dial(reach(to, url), forever)

/** A connection through the relay from one node to another. */
async function meet(site: RelaySite, from: HeldIdentity, to: HeldIdentity) {
  const channel = await dialText(`${site.url}?listen`, credentialsOf(to)(), forever)
  const nonce = new Promise<string>((resolve) =>
    channel.onText((text) => {
      const message = readFromRelay(text)
      if (message.type === 'incoming') resolve(message.nonce)
    }),
  )
  const taking = nonce.then((nonce) => dialBytes(`${site.url}?take=${nonce}`, credentialsOf(to)(), forever))
  const [{ stream }, taken] = await Promise.all([dial(from, to, site.url), taking])
  return { stream, taken, channel }
}

t.test('a token bucket keeps its rate exactly, whatever is taken', async (t) => {
  let now = 0
  const bucket = new TokenBucket({ perSecond: 1_000, burst: 100, now: () => now })
  const rows = [
    { at: 0, take: 100, waits: 0, why: 'the burst' },
    { at: 0, take: 50, waits: 50, why: 'into debt' },
    { at: 20, take: 0, waits: 30, why: 'paid in part' },
    { at: 50, take: 1_000, waits: 1_000, why: 'any amount' },
    { at: 5_000, take: 0, waits: 0, why: 'paid' },
    { at: 5_000, take: 100, waits: 0, why: 'no more than the burst was saved up' },
    { at: 5_000, take: 1, waits: 1, why: 'and that is used' },
  ]
  for (const { at, take, waits, why } of rows) {
    now = at
    bucket.take(take)
    t.equal(Math.round(bucket.waitMs), waits, why)
  }
  t.notOk(bucket.isFull, 'the bucket has been drawn from')
  now = 6_000
  t.ok(bucket.isFull, 'the bucket is full again after enough time')
})

t.test('a node that sends too much is delayed, and others are not', async (t) => {
  await using site = await RelaySite.start(edge, { nodeBytesPerSecond: 2_000_000 })
  const greedy = await meet(site, n1, n2)
  const modest = await meet(site, n3, n2)
  const total = 1_500_000 // half a second beyond the burst
  const order: string[] = []
  const since = performance.now()
  const all = arrive(greedy.taken, total).then(() => order.push('greedy'))
  greedy.stream.write(Buffer.alloc(total, 1))
  modest.stream.write(Buffer.alloc(200_000, 2))
  await Promise.all([all, arrive(modest.taken, 200_000).then(() => order.push('modest'))])
  t.same(order, ['modest', 'greedy'])
  t.ok(performance.now() - since > 400, 'no faster than it may')
  t.ok(await value(site.metrics.relayPauses), 'and it is seen')
  for (const { stream, channel } of [greedy, modest]) {
    stream.destroy()
    channel.close()
  }
})

t.test('a joined leg is read only as fast as the other side accepts', async (t) => {
  const [near, a] = duplexPair()
  const [b, far] = duplexPair()
  let passed = 0
  const over = Promise.withResolvers<void>()
  const pace = new RateLimit(1e12, () => undefined)
  join(
    { stream: a, rateLimit: pace },
    { stream: b, rateLimit: pace },
    { onBytes: (bytes) => (passed += bytes), onEnd: () => over.resolve() },
  )
  let written = 0
  const chunk = Buffer.alloc(16 * 1024, 7)
  while (near.write(chunk)) written += 1
  for (let turns = 0; turns < 50; turns += 1) await new Promise((resolve) => setImmediate(resolve))
  while (!near.writableNeedDrain && near.write(chunk)) written += 1
  const held = passed
  t.ok(held < 1024 * 1024, `${held} bytes passed to somebody who does not read`)
  far.resume()
  await once(near, 'drain')
  t.ok(passed > held, 'and it goes on when it reads')
  near.end()
  far.end()
  await over.promise
})

t.test('the request rate of a node is limited', async (t) => {
  await using site = await RelaySite.start(edge, { nodeRequestsPerSecond: 1 })
  const refused = { code: 'RELAY_REFUSED', details: { reason: 'node not connected here' } }
  for (let requests = 0; requests < 6; requests += 1) await t.rejects(dial(n1, n2, site.url), refused)
  await t.rejects(dial(n1, n2, site.url), {
    code: 'RELAY_REFUSED',
    details: { reason: 'too many connections' },
  })
  const listening = dialText(`${site.url}?listen`, credentialsOf(n1)(), forever)
  await t.rejects(listening, { code: 'REQUEST_FAILED', details: { status: 429 } }, 'to listen is a request too')
  await t.rejects(dial(n3, n2, site.url), refused, 'another node is not meant')
  t.ok(await value(site.metrics.relayRefusals), 'the refusals are counted')
})

t.test('other nodes make progress beside one that takes all it can get', async (t) => {
  const pair = 4
  await using site = await RelaySite.start(edge, { pair, dialled: 6, nodeRequestsPerSecond: 1_000 })
  const heard = { incoming: 0, signals: 0 }
  const victim = await dialText(`${site.url}?listen=signals`, credentialsOf(n2)(), forever)
  const taken: Duplex[] = []
  victim.onText((text) => {
    const message = readFromRelay(text)
    if (message.type === 'signal') heard.signals += 1
    if (message.type !== 'incoming') return
    heard.incoming += 1
    void dialBytes(`${site.url}?take=${message.nonce}`, credentialsOf(n2)(), forever).then(
      (leg) => taken.push(leg),
      () => undefined,
    )
  })
  await site.knows(idOf(n2))

  // as many channels as it may, of which it reads none
  const asked = await Promise.allSettled(Array.from({ length: 50 }, () => dial(n1, n2, site.url)))
  const channels = asked.filter((outcome) => outcome.status === 'fulfilled').map(({ value }) => value.stream)
  t.equal(channels.length, pair)
  t.equal(heard.incoming, pair, 'the one it asks for hears of no more than that')
  await site.until(() => taken.length === pair)
  const block = Buffer.alloc(64 * 1024)
  for (const leg of taken) for (let count = 0; count < 256; count += 1) leg.write(block)
  const held = () => site.legs.reduce((sum, leg) => sum + leg.writableLength + leg.readableLength, 0)
  await site.until(() => held() > 0) // the system holds some MiB before
  // more signals than anybody says
  const flood = await dialText(`${site.url}?listen=signals`, credentialsOf(n1)(), forever)
  await site.knows(idOf(n1))
  const signal = JSON.stringify({ type: 'signal', to: idOf(n2), body: '{}' } satisfies FromListener)
  for (let count = 0; count < 5_000; count += 1) flood.send(signal)
  await flood.measure() // all of them are at the relay

  const honest = await dial(n3, n2, site.url)
  await site.until(() => taken.length === pair + 1)
  honest.stream.write('hello')
  const [said] = (await once(taken.at(-1)!, 'data')) as [Buffer]
  t.equal(said.toString(), 'hello', 'somebody else is connected, and heard')
  await victim.measure()
  t.ok(heard.signals > 0 && heard.signals < 500, `${heard.signals} of 5,000 signals came`)
  t.ok(held() < (pair + 1) * 512 * 1024, `${held()} bytes are held for who does not read`)

  for (const leg of [...channels, ...taken, honest.stream]) leg.destroy()
  await site.until(async () => (await site.open()) === 0)
  const again = await dial(n1, n2, site.url)
  t.pass('and what it gave back it may have again')
  again.stream.destroy()
  for (const channel of [victim, flood]) channel.close()
})

t.test('a relay is not an open proxy', async (t) => {
  await using site = await RelaySite.start(edge)
  const victim = createServer(() => t.fail('somebody was sent here'))
  victim.listen(0, '127.0.0.1')
  await once(victim, 'listening')
  const at = `127.0.0.1:${(victim.address() as AddressInfo).port}`
  const targets = [at, `https://${at}/`, `tcp:${at}`, 'edge/nobody', '../n2', idOf(n1)]
  for (const to of targets) {
    const asked = dialBytes(`${site.url}?to=${encodeURIComponent(to)}`, credentialsOf(n1)(), forever)
    await t.rejects(asked, { code: 'REQUEST_FAILED', details: { status: 404 } }, to)
  }
  await using foreign = await TestMesh.create()
  const namesake = await foreign.node(await foreign.cluster('edge'), 'n1')
  const strangers = { 'of another mesh, with our names': { key: namesake.key, cert: namesake.chain }, nobody: {} }
  for (const [who, own] of Object.entries(strangers)) {
    const tls = { ...own, ca: mesh.ca, checkServerIdentity: () => undefined }
    for (const query of [`to=${idOf(n2)}`, 'listen', 'ping', `take=${'0'.repeat(32)}`]) {
      const asked = dialBytes(`${site.url}?${query}`, { tls }, forever)
      await t.rejects(asked, { code: 'REQUEST_FAILED', details: { status: 401 } }, `${who}: ${query}`)
    }
  }
  const socket = connectTls({
    host: '127.0.0.1',
    port: site.port,
    key: n1.key,
    cert: n1.chain,
    ca: mesh.ca,
    checkServerIdentity: () => undefined,
  })
  socket.on('error', () => undefined)
  socket.write(`CONNECT ${at} HTTP/1.1\r\nhost: ${at}\r\n\r\n`)
  await closed(socket.resume())
  t.pass('CONNECT ends the connection')
  await new Promise((resolve) => victim.close(resolve))
})

t.test('only the certificate of a cluster or a relay is accepted from a relay server', async (t) => {
  await using site = await RelaySite.start(n3) // a node with a good certificate, posing as a relay
  const { principal } = n1
  const credentials = () => ({ tls: clientOptions(n1, (other) => mayRelay(other) && other.mesh === principal.mesh) })
  await t.rejects(relayedDialer({ credentials }).dial(reach(n2, site.url), forever), { code: 'PEER_REFUSED' })
  await t.rejects(dialText(`${site.url}?listen`, credentials(), forever), { code: 'PEER_REFUSED' })
  t.same([...site.relay.listening], [])
})

t.test('handshakes start at a limited rate, shared fairly between sources', async (t) => {
  const entered: string[] = []
  const server = createServer((socket) => {
    entered.push(socket.remoteAddress ?? '')
    socket.once('data', (first) => socket.end(first))
  })
  limitHandshakes(server, { perSecond: 100 })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const flood = Array.from({ length: 60 }, () => connectTcp({ port, host: '127.0.0.1', localAddress: '127.0.0.2' }))
  const ends = flood.map((socket) => {
    socket.on('error', () => undefined).write('early')
    return closed(socket.resume())
  })
  await Promise.all(flood.filter(({ connecting }) => connecting).map((socket) => once(socket, 'connect')))
  const other = connectTcp({ port, host: '127.0.0.1', localAddress: '127.0.0.3' })
  other.write('here')
  const echo = await heard(other)
  t.equal(echo.toString(), 'here', 'what was sent before it entered is not lost')
  t.ok(entered.length < 40, `it entered after ${entered.length} of the flood`)
  await Promise.all(ends)
  other.destroy()
  await new Promise((resolve) => server.close(resolve))
})

t.test('a connection that sends nothing uses up no handshake', async (t) => {
  const server = createServer((socket) => socket.once('data', (first) => socket.end(first)))
  limitHandshakes(server, { perSecond: 8, silentMs: 60_000 }) // one at once, eight a second
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const silent = Array.from({ length: 200 }, () => connectTcp({ port, host: '127.0.0.1' }))
  await Promise.all(
    silent.map((socket) =>
      once(
        socket.on('error', () => undefined),
        'connect',
      ),
    ),
  )
  const startedAt = performance.now()
  const other = connectTcp({ port, host: '127.0.0.1' })
  other.write('here')
  await heard(other)
  t.ok(performance.now() - startedAt < 10_000, 'behind 200 handshakes it would have waited 25 s')
  for (const socket of [...silent, other]) socket.destroy()
  await new Promise((resolve) => server.close(resolve))
})

async function value(metric: { get(): Promise<{ values: { value: number }[] }> }): Promise<number> {
  return (await metric.get()).values.reduce((sum, { value }) => sum + value, 0)
}

function arrive(stream: NodeJS.ReadableStream, bytes: number): Promise<void> {
  return new Promise((resolve) => {
    let got = 0
    stream.on('data', (chunk: Buffer) => {
      got += chunk.length
      if (got >= bytes) resolve()
    })
  })
}
