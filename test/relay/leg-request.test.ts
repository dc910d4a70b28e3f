import { randomBytes } from 'node:crypto'
import { duplexPair, type Duplex } from 'node:stream'
import t from 'tap'
import { RelayListener } from '../../proxy/paths/relays/relay-listener.ts'
import { relayedDialer } from '../../proxy/paths/relays/relayed-dialer.ts'
import { Pairings, type LegRequest } from '../../proxy/relay/pairings.ts'
import {
  LEG_REQUESTS_HEADER,
  readFromRelay,
  type FromListener,
  type FromRelay,
} from '../../proxy/relay/wire/messages.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { dialUpgrade } from '../../src/core/kit/upgrade.ts'
import { dialText, type Channel } from '../../src/core/kit/websocket.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { nodeIdOf } from '../../src/core/identity/principal.ts'
import { TestMesh } from '../identity/mesh.ts'
import { credentialsOf, RelaySite } from './site.ts'
import { until } from '../support/until.ts'

/*
 * A dialler that listens at the relay says that it comes before its leg is there: both legs are on their way at once.
 */

await using mesh = await TestMesh.create()
const core = await mesh.cluster('core')
const edge = await mesh.cluster('edge')
const [n1, n2, n3] = [await mesh.node(edge, 'n1'), await mesh.node(edge, 'n2'), await mesh.node(edge, 'n3')]
const forever = new AbortController().signal
const idOf = ({ principal }: HeldIdentity) => (principal.role === 'node' ? nodeIdOf(principal) : '')
const answered = (status: number) => ({ code: 'REQUEST_FAILED', details: { status } })
const gone = answered(410)

/** A control channel of a node that knows of leg requests, and what it hears. */
class Control implements Disposable {
  readonly heard: FromRelay[] = []
  readonly channel: Channel

  private constructor(channel: Channel) {
    this.channel = channel
    channel.onText((text) => this.heard.push(readFromRelay(text)))
  }

  static async open(
    node: HeldIdentity,
    { url }: RelaySite,
    headers = { [LEG_REQUESTS_HEADER]: '1' },
  ): Promise<Control> {
    return new Control(await dialText(`${url}?listen=signals`, { ...credentialsOf(node)(), headers }, forever))
  }

  say(message: FromListener): void {
    this.channel.send(JSON.stringify(message))
  }

  get incoming() {
    return this.heard.filter((message) => message.type === 'incoming')
  }

  [Symbol.dispose](): void {
    this.channel.close()
  }
}

const leg = (node: HeldIdentity, { url }: RelaySite, query: string, signal = forever) =>
  dialUpgrade(`${url}?${query}`, credentialsOf(node)(), signal)
const draw = () => randomBytes(16).toString('hex')

t.test('the legs of one request are paired, whichever arrives first', async (t) => {
  const refused: [LegRequest, string][] = []
  const pairings = (takeMs = 60_000) =>
    new Pairings({ takeMs, refuse: (leg, refusal) => void refused.push([leg, refusal]) })
  const between = { nonce: 'x', from: 'edge/n1', to: 'edge/n2' }
  const leg = (): LegRequest => ({ request: {} as never, socket: duplexPair()[0], head: Buffer.alloc(0) })
  let left = 0
  const releaseQuota = () => void (left += 1)

  for (const order of [['dialled', 'taken'] as const, ['taken', 'dialled'] as const]) {
    const some = pairings()
    const pairing = some.begin(between, releaseQuota)
    const legs = { dialled: leg(), taken: leg() }
    t.equal(some.addLeg(pairing, order[0], legs[order[0]]), undefined, `${order[0]} first: it waits`)
    t.same(some.addLeg(pairing, order[1], legs[order[1]]), { ...legs, releaseQuota })
    t.equal(some.of('x'), undefined, 'a nonce works once')
    legs.taken.socket.destroy()
    await turn()
    t.same([left, refused.length], [0, 0], 'what is joined is somebody else’s')
  }

  const ends: Record<string, (some: Pairings, first: LegRequest) => void | Promise<void>> = {
    withdrawn: (some) => some.end(some.of('x')!, 'nonce unknown or used'),
    'refused by the node': (some) => some.end(some.of('x')!, 'refused by the node'),
  }
  for (const [why, end] of Object.entries(ends)) {
    const some = pairings()
    const first = leg()
    some.addLeg(some.begin(between, releaseQuota), 'taken', first)
    left = 0
    refused.length = 0
    await end(some, first)
    t.same(
      [left, refused.length, refused[0]?.[0] === first],
      [1, 1, true],
      `${why}: the place is free, the leg is told`,
    )
    t.equal(some.of('x'), undefined)
  }
  const some = pairings()
  const first = leg()
  some.addLeg(some.begin(between, releaseQuota), 'taken', first)
  left = 0
  refused.length = 0
  first.socket.destroy()
  await turn()
  t.same([left, refused.length], [1, 0], 'a leg that has gone is not notified')
  t.equal(some.addLeg({ ...between, legs: {} }, 'dialled', leg()), undefined)

  const late = pairings(1)
  late.begin(between, releaseQuota)
  await until(() => late.of('x') === undefined)
  t.equal(left, 2, 'nobody came at all')
})

t.test('two nodes are paired through a relay, whichever leg is first', async (t) => {
  await using site = await RelaySite.start(core)
  using near = await Control.open(n1, site)
  using far = await Control.open(n2, site)
  await site.until(() => near.heard.length > 0)
  t.match(near.heard[0], { type: 'welcome', knocks: true })
  for (const first of ['taken', 'dialled']) {
    const nonce = draw()
    near.say({ type: 'knock', to: 'edge/n2', nonce })
    await site.until(() => far.incoming.some((message) => message.nonce === nonce))
    t.match(far.incoming.at(-1), { from: 'edge/n1', nonce }, 'announced before the leg arrives')
    const legs = site.legs.length
    const bring: Record<string, () => Promise<Duplex>> = {
      dialled: () => leg(n1, site, `to=edge/n2&knock=${nonce}`),
      taken: () => leg(n2, site, `take=${nonce}`),
    }
    const one = bring[first]!()
    await site.until(() => site.legs.length > legs)
    const other = bring[first === 'taken' ? 'dialled' : 'taken']!()
    const [a, b] = await Promise.all([one, other])
    a.write('hello')
    t.equal(String(await new Promise((resolve) => b.once('data', resolve))), 'hello', `${first} first`)
    a.destroy()
    await site.until(() => b.destroyed || b.readableEnded)
    b.destroy()
  }
  await site.until(async () => (await site.open()) === 0)
})

t.test('the relay dialler and relay listener of two agents connect', async (t) => {
  await using site = await RelaySite.start(core)
  const came: string[] = []
  const listening = (node: HeldIdentity) =>
    RelayListener.start(
      {
        url: site.url,
        credentials: credentialsOf(node),
        onConnection: ({ stream }) => void (came.push(idOf(node)), stream.on('error', () => undefined).end('met')),
        onWelcome: () => void welcomed.add(idOf(node)),
      },
      silentLog,
    )
  const welcomed = new Set<string>()
  await using near = listening(n1)
  await using far = listening(n2)
  t.equal(near.requestLeg('edge/n2'), undefined, 'not before it is welcome')
  await site.until(() => welcomed.size === 2)
  const announced: string[] = []
  const dialler = relayedDialer({
    credentials: credentialsOf(n1),
    requestLeg: (_url, to) => {
      const leg = near.requestLeg(to)
      if (leg !== undefined) announced.push(leg.nonce)
      return leg
    },
  })
  const { stream } = await dialler.dial({ id: 'edge/n2', addresses: [], relays: [site.url] }, forever)
  t.equal(String(await new Promise((resolve) => stream.once('data', resolve))), 'met')
  stream.destroy()
  t.same([announced.length, came], [1, ['edge/n2']], 'one leg, one leg')
  const refused = dialler.dial({ id: 'edge/n9', addresses: [], relays: [site.url] }, forever)
  const why = { code: 'RELAY_REFUSED', details: { reason: 'node not connected here' } }
  await t.rejects(refused, why, 'as if there had been no leg')
  await far[Symbol.asyncDispose]()
})

t.test('a leg whose dialler withdraws is ended and frees its place', async (t) => {
  await using site = await RelaySite.start(core, { pair: 1 })
  using near = await Control.open(n1, site)
  using far = await Control.open(n2, site)
  const nonce = draw()
  near.say({ type: 'knock', to: 'edge/n2', nonce })
  await site.until(() => far.incoming.length === 1)
  const taken = leg(n2, site, `take=${nonce}`)
  await site.until(() => site.legs.length === 1)
  near.say({ type: 'withdraw', nonce })
  await t.rejects(taken, gone)
  near.say({ type: 'knock', to: 'edge/n2', nonce: draw() })
  await site.until(() => far.incoming.length === 2)
  t.pass('and its place is free')
})

t.test('a leg can be used only by the two nodes it was requested for', async (t) => {
  await using site = await RelaySite.start(core, { takeMs: 60_000, pair: 1 })
  using near = await Control.open(n1, site)
  using far = await Control.open(n2, site)
  using evil = await Control.open(n3, site)
  const nonce = draw()
  near.say({ type: 'knock', to: 'edge/n2', nonce })
  await site.until(() => far.incoming.length === 1)

  await t.rejects(leg(n3, site, `take=${nonce}`), gone, 'another listener')
  evil.say({ type: 'withdraw', nonce })
  evil.say({ type: 'refuse', nonce })
  evil.say({ type: 'knock', to: 'edge/n1', nonce })
  const own = new AbortController()
  const stranger = leg(n3, site, `to=edge/n2&knock=${nonce}`, own.signal)
  stranger.catch(() => undefined)
  await site.until(() => far.incoming.length === 2)
  t.match(far.incoming[1], { from: 'edge/n3' }, 'another’s leg is one of its own, under its own name')
  t.not(far.incoming[1]?.nonce, nonce)
  own.abort()

  near.say({ type: 'knock', to: 'edge/n2', nonce: draw() }) // beyond what one pair may have: not honoured
  near.say({ type: 'knock', to: 'edge/n1', nonce: draw() }) // to itself
  near.say({ type: 'knock', to: 'edge/n9', nonce: draw() }) // to nobody
  const [a, b] = await Promise.all([leg(n1, site, `to=edge/n2&knock=${nonce}`), leg(n2, site, `take=${nonce}`)])
  t.equal(far.incoming.length, 2)
  t.same(near.incoming, [])
  a.destroy()
  b.destroy()
  await t.rejects(leg(n1, site, 'to=edge/n9&knock='), answered(404), 'an empty nonce counts as none')
  await t.rejects(leg(n1, site, `take=x&knock=${nonce}`), answered(400))
  await t.rejects(leg(n1, site, `knock=${nonce}`), answered(400))
})

t.test('leg requests count against the same limits as dials', async (t) => {
  await using site = await RelaySite.start(core, { nodeRequestsPerSecond: 1, takeMs: 60_000 })
  using near = await Control.open(n1, site)
  using far = await Control.open(n2, site)
  for (let i = 0; i < 50; i++) near.say({ type: 'knock', to: 'edge/n2', nonce: draw() })
  near.say({ type: 'signal', to: 'edge/n2', body: 'after all of them' })
  await site.until(() => far.heard.some(({ type }) => type === 'signal'))
  t.ok(far.incoming.length >= 1 && far.incoming.length <= 6, `${far.incoming.length} of 50`)
})

t.test('leg requests are not sent to a listener that does not support them', async (t) => {
  await using site = await RelaySite.start(core)
  using old = await Control.open(n1, site, {} as never)
  await site.until(() => old.heard.length === 1)
  t.same(Object.keys(old.heard[0] ?? {}), ['type', 'seen'])
})

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
