import { randomBytes, X509Certificate } from 'node:crypto'
import { duplexPair } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { readSignal, Signals } from '../../proxy/paths/signals.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'
import { RevocationSpread } from '../../src/agent/revocation-spread.ts'
import type { Identity, Revocation } from '../../src/core/identity/contract.ts'
import { HeldIdentity } from '../../src/core/identity/held.ts'
import { issueNode } from '../../src/core/identity/issuer.ts'
import { createRequest } from '../../src/core/identity/keys.ts'
import { connectSecure, createAcceptor } from '../../src/core/identity/peer-tls.ts'
import { printPrincipal } from '../../src/core/identity/principal.ts'
import { Revocations } from '../../src/core/identity/revocation.ts'
import { enrolmentOf } from '../../src/core/identity/x509.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { TestMesh } from './mesh.ts'
import { until } from '../support/until.ts'

const DAY_MS = 24 * 3_600_000
const mesh = await TestMesh.create()
const { authority } = mesh
const edge = await mesh.cluster('edge')
const [n1, n2, n3] = [await mesh.node(edge, 'n1'), await mesh.node(edge, 'n2'), await mesh.node(edge, 'n3')]
await mesh[Symbol.asyncDispose]()

function revoke(identity: Identity, salt = 0): Revocation {
  const enrolment = enrolmentOf(new X509Certificate(identity.chain))
  const id = salt === 0 ? enrolment : randomBytes(8).toString('hex') // random ones do not compress
  return { kind: 'enrolment', id, until: Date.now() + DAY_MS, principal: printPrincipal(identity.principal) }
}

/** Nodes that pass signals on to each other while there is a session between them. */
class Net {
  readonly #life: Lifetime
  readonly #signals = new Map<string, Signals>()
  readonly #sessions = new Map<string, Session[]>()
  sent = 0

  constructor(life: Lifetime) {
    this.#life = life
  }

  node(name: string): Revocations {
    const revocations = new Revocations(authority.ca)
    const signals = new Signals({
      overSession: (to, payload) => {
        const isThere = this.#sessions.get(name)?.some(({ peer }) => peer === to) === true
        if (isThere) queueMicrotask(() => this.#signals.get(to)?.fromSession(name, payload))
        this.sent += isThere ? 1 : 0
        return isThere
      },
      hasSession: (to) => this.#sessions.get(name)?.some(({ peer }) => peer === to) === true,
      overRelay: () => false,
      listening: () => [],
      now: () => performance.now(),
    })
    this.#signals.set(name, signals)
    this.#sessions.set(name, [])
    const peers = { all: () => this.#sessions.get(name) ?? [] }
    RevocationSpread.start(this.#life, { revocations, signals, peers, clock: systemClock, log: silentLog })
    return revocations
  }

  join(one: string, other: string): void {
    this.#sessions.get(one)?.push({ peer: other } as Session)
    this.#sessions.get(other)?.push({ peer: one } as Session)
  }

  inject(from: string, to: string, payload: object): void {
    this.#signals.get(to)?.fromSession(from, Buffer.from(JSON.stringify(payload)))
  }
}

t.test('a list reaches nodes without a control link, over the sessions of others', async (t) => {
  await using life = new Lifetime()
  const net = new Net(life)
  const [a, b, c] = [net.node('edge/a'), net.node('edge/b'), net.node('edge/c')]
  net.join('edge/a', 'edge/b')
  net.join('edge/b', 'edge/c')
  a.offer(authority.signRevocations(3, [revoke(n1)]))
  await until(() => c.number === 3)
  t.ok(b.isRevoked(new X509Certificate(n1.chain)), 'the node between has passed the list on and taken it')
  t.ok(c.isRevoked(new X509Certificate(n1.chain)), 'the node behind it has taken the list')
  const { sent } = net
  await new Promise((resolve) => setTimeout(resolve, 1_200))
  t.equal(net.sent, sent, 'and then nothing more is said')
  c.offer(authority.signRevocations(4, []))
  await until(() => a.number === 4)
  t.pass('from either end')
})

t.test('a long list comes in parts, at the pace that signals are taken', async (t) => {
  await using life = new Lifetime()
  const net = new Net(life)
  const [a, b] = [net.node('edge/a'), net.node('edge/b')]
  net.join('edge/a', 'edge/b')
  a.offer(
    authority.signRevocations(
      1,
      Array.from({ length: 1_500 }, (_, i) => revoke(n1, i + 1)),
    ),
  )
  await until(() => b.number === 1)
  t.ok(net.sent > 14, `${net.sent} signals`)
})

t.test('a peer cannot pass on what the root has not signed', async (t) => {
  await using life = new Lifetime()
  const net = new Net(life)
  const [a, b] = [net.node('edge/a'), net.node('edge/b')]
  net.join('edge/a', 'edge/b')
  a.offer(authority.signRevocations(2, [revoke(n1)]))
  await until(() => b.number === 2)
  const rows: object[] = [
    { type: 'revocations-part', number: 9, part: 0, parts: 1, data: Buffer.from('nonsense').toString('base64') },
    { type: 'revocations-part', number: 9, part: 5, parts: 2, data: '' },
    { type: 'revocations-part', number: 9, part: 0, parts: 1_000, data: 'A' },
    { type: 'revocations', number: Number.MAX_SAFE_INTEGER },
    { type: 'revocations-get' },
  ]
  for (const row of rows) net.inject('edge/a', 'edge/b', row)
  await nextTurn()
  t.equal(b.number, 2)
  t.throws(() => readSignal(JSON.stringify({ type: 'revocations', number: 0 })), { code: 'MESSAGE_INVALID' })
  t.throws(() => readSignal(JSON.stringify({ type: 'revocations-part', number: 1, part: 0, parts: 1, data: '!' })))
})

/** Both ends of a connection between two nodes, and when the acceptor's ended. */
async function connection(t: Test, dialler: Identity) {
  const acceptorIdentity = await HeldIdentity.save(t.testdir(), { keyPem: n3.key, chain: n3.chain, ca: n3.ca })
  const [near, far] = duplexPair()
  const acceptor = createAcceptor(acceptorIdentity)
  t.teardown(() => acceptor[Symbol.dispose]())
  const accepted = acceptor.accept(far)
  const socket = await connectSecure(near, dialler, 'edge/n3', AbortSignal.timeout(30_000))
  socket.on('error', () => undefined)
  const { stream } = await accepted
  const ended = new Promise<void>((resolve) => stream.once('close', () => resolve()))
  return { revocations: acceptorIdentity.revocations, stream, ended }
}

t.test('a connection ends when the certificate of its peer is revoked, and no other does', async (t) => {
  const revoked = await connection(t, n1)
  revoked.revocations.offer(authority.signRevocations(1, [revoke(n2)]))
  t.notOk(revoked.stream.destroyed, 'of another node')
  revoked.revocations.offer(authority.signRevocations(2, [revoke(n1)]))
  await revoked.ended
  t.pass('its own')
  await revoked.revocations.saved()
})

t.test('a connection ends when the certificate of its peer expires', async (t) => {
  const almostADayAgo: Clock = { ...systemClock, wall: () => Date.now() - DAY_MS + 5_000 }
  const { keyPem, csrPem } = await createRequest(n1.principal)
  const chain = await issueNode(edge, csrPem, 'n1', { clock: almostADayAgo })
  const { stream, ended } = await connection(t, HeldIdentity.inMemory({ keyPem, chain, ca: n1.ca }))
  t.notOk(stream.destroyed, 'the connection is open while the certificate is valid')
  const awake = setInterval(() => undefined, 1_000) // the timer of a certificate keeps no process alive
  await ended
  clearInterval(awake)
  t.ok(Date.now() >= new X509Certificate(chain).validToDate.getTime() - 1, 'it did not end before its certificate')
})
