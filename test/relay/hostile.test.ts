import { duplexPair, type Duplex } from 'node:stream'
import t from 'tap'
import { claimIfExpected, ExpectedConnections, presentNonce } from '../../proxy/paths/expected-connections.ts'
import { dialLeg, relayedDialer } from '../../proxy/paths/relays/relayed-dialer.ts'
import { LISTEN } from '../../proxy/relay/wire/messages.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { CALLED_ALPN, connectSecure, createAcceptor } from '../../src/core/identity/peer-tls.ts'
import { nodeIdOf } from '../../src/core/identity/principal.ts'
import { dialText } from '../../src/core/kit/websocket.ts'
import { TestMesh } from '../identity/mesh.ts'
import { joinHostile, spliceCrosswise, type Misbehaviour } from '../support/hostile-relay.ts'
import { credentialsOf, RelaySite } from './site.ts'

await using mesh = await TestMesh.create()
const edge = await mesh.cluster('edge')
const n1 = await mesh.node(edge, 'n1')
const n2 = await mesh.node(edge, 'n2')
const n3 = await mesh.node(edge, 'n3')
const forever = new AbortController().signal
const idOf = ({ principal }: HeldIdentity) => (principal.role === 'node' ? nodeIdOf(principal) : '')

/** The two ends of a relayed connection, and the two legs that the relay holds. */
function legs(): { dialler: Duplex; listener: Duplex; atRelay: [Duplex, Duplex] } {
  const [dialler, near] = duplexPair()
  const [far, listener] = duplexPair()
  return { dialler, listener, atRelay: [near, far] }
}

/** Everything that arrives until the end, whichever way that comes. */
async function arrivals(stream: Duplex, limitMs: number): Promise<string> {
  let text = ''
  stream.on('error', () => undefined)
  stream.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')))
  const late = new Promise((resolve) => setTimeout(resolve, limitMs))
  await Promise.race([new Promise((resolve) => stream.once('end', resolve).once('close', resolve)), late])
  stream.destroy()
  return text
}

const SENT = Array.from({ length: 40 }, (_, i) => `message ${i};`).join('')

for (const does of ['tamper', 'truncate', 'replay', 'reorder', 'inject', 'stall', 'flood'] as const) {
  t.test(`a relay that does this from the first byte on (${does}) delivers nothing`, async (t) => {
    const { received } = await through(does, 0, 1_500)
    t.equal(received, '')
  })

  t.test(`a relay that begins with it later (${does}) delivers what was sent, or ends it`, async (t) => {
    const { received } = await through(does, 12, 1_500)
    t.ok(SENT.startsWith(received), `${received.length} of ${SENT.length} bytes, none of them changed`)
  })
}

t.test('an honest relay delivers everything', async (t) => {
  const { outcome, received } = await through('nothing', 0, 30_000)
  t.equal(outcome, 'secured')
  t.equal(received, SENT)
})

/** TLS from n1 to n2 through the relay, and then `SENT` in small pieces. */
async function through(does: Misbehaviour, fromChunk: number, limitMs: number) {
  const { dialler, listener, atRelay } = legs()
  joinHostile(...atRelay, { does, fromChunk })
  using acceptor = createAcceptor(n2)
  const limit = new AbortController()
  const timer = setTimeout(() => {
    limit.abort(new Error('too late'))
    listener.destroy()
  }, limitMs)
  const accepting = acceptor.accept(listener).catch(() => undefined)
  try {
    const secured = await connectSecure(dialler, n1, idOf(n2), limit.signal)
    secured.on('error', () => undefined)
    const accepted = await accepting
    const received = accepted === undefined ? Promise.resolve('') : arrivals(accepted.stream, limitMs)
    for (const piece of SENT.match(/[^;]*;/g) ?? []) {
      if (secured.destroyed) break
      secured.write(piece)
      await new Promise((resolve) => setImmediate(resolve))
    }
    secured.end()
    return { outcome: 'secured', received: await received } as const
  } catch {
    return { outcome: 'refused', received: '' } as const
  } finally {
    clearTimeout(timer)
    for (const stream of [dialler, listener]) stream.destroy()
  }
}

t.test('a relay that splices the legs of two pairings is found out by both diallers', async (t) => {
  const toTwo = legs()
  const toThree = legs()
  spliceCrosswise(toTwo.atRelay, toThree.atRelay)
  using two = createAcceptor(n2)
  using three = createAcceptor(n3)
  for (const accepting of [two.accept(toTwo.listener), three.accept(toThree.listener)]) accepting.catch(() => undefined)
  for (const [dialler, meant] of [
    [toTwo.dialler, n2],
    [toThree.dialler, n3],
  ] as const)
    await t.rejects(connectSecure(dialler, n1, idOf(meant), forever), { code: 'PEER_REFUSED' })
})

t.test('an expected connection under the wrong certificate is refused, whoever has learned the nonce', async (t) => {
  const expected = new ExpectedConnections()
  using expectation = expected.expect(idOf(n2))
  let hasArrived = false
  void expectation.arrived.then(() => (hasArrived = true))
  using acceptor = createAcceptor(n1)
  const present = async (as: HeldIdentity) => {
    const [dialler, listener] = duplexPair()
    const accepted = acceptor.accept(listener).then((arrival) => claimIfExpected(expected, arrival))
    const secured = await connectSecure(dialler, as, idOf(n1), forever, CALLED_ALPN)
    secured.on('error', () => undefined)
    presentNonce(secured, expectation.nonce)
    return accepted
  }
  await t.rejects(present(n3), { code: 'PEER_REFUSED' }, 'the thief proves to be n3')
  t.notOk(hasArrived, 'no connection of the thief arrives')
  t.equal(await present(n2), undefined, 'the node that was asked is still welcome')
  await expectation.arrived
  await t.rejects(present(n2), { code: 'PEER_REFUSED' }, 'a nonce works once')
})

t.test('legs that nobody takes are bounded while they wait, and let go after', async (t) => {
  await using site = await RelaySite.start(edge, { pair: 4, takeMs: 1_000, nodeRequestsPerSecond: 10_000 })
  const channel = await dialText(`${site.url}?${LISTEN}`, credentialsOf(n2)(), forever) // listens, and takes nothing
  await site.knows(idOf(n2))
  const dial = () =>
    dialLeg(`${site.url}?to=${encodeURIComponent(idOf(n2))}`, credentialsOf(n1)(), forever).then(
      () => 'joined',
      (error: { details?: { status?: number } }) => error.details?.status,
    )
  const outcomes = await Promise.all(Array.from({ length: 20 }, dial)) // a busy machine takes seconds for more handshakes
  const [held, refused] = [504, 429].map((status) => outcomes.filter((outcome) => outcome === status).length)
  t.equal((held ?? 0) + (refused ?? 0), 20, 'each one is answered')
  t.ok((refused ?? 0) > 0, `${refused} were refused at once, since ${held} in turns were waiting`)
  t.equal(await dial(), 504, 'and their places are free again')
  t.equal(await site.open(), 0)
  channel.close()
  await site.until(() => [...site.relay.listening].length === 0)
})

t.test('a flood of requests with a good certificate leaves the relay to the others', async (t) => {
  await using site = await RelaySite.start(edge, { nodeRequestsPerSecond: 2 })
  const statuses = new Set<number | undefined>()
  const over = new AbortController()
  const flood = Array.from({ length: 8 }, async () => {
    while (!over.signal.aborted)
      await dialLeg(`${site.url}?to=${encodeURIComponent('edge/nobody')}`, credentialsOf(n3)(), forever).catch(
        ({ details }: { details?: { status?: number } }) => statuses.add(details?.status),
      )
  })
  await using _over = {
    async [Symbol.asyncDispose]() {
      over.abort()
      await Promise.all(flood)
    },
  }
  await site.until(() => statuses.has(429))
  t.pass('the flood got status 429')
  const channel = await dialText(`${site.url}?${LISTEN}`, credentialsOf(n2)(), forever)
  await site.knows(idOf(n2))
  channel.onText((text) => {
    const { type, nonce = '' } = JSON.parse(text) as { type: string; nonce?: string }
    if (type === 'incoming') void dialLeg(`${site.url}?take=${nonce}`, credentialsOf(n2)(), forever)
  })
  const target = { id: idOf(n2), addresses: [], relays: [site.url] }
  const raw = await relayedDialer({ credentials: credentialsOf(n1) }).dial(target, forever)
  t.equal(raw.path, 'relayed', 'another node connects during the flood')
  raw.stream.destroy()
  channel.close()
})
