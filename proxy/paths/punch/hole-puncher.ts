import { MeshError } from '../../../src/core/errors.ts'
import { within } from '../../../src/core/kit/abort.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { parseHostPort, printHostPort, type HostPort } from '../../../src/core/kit/host-port.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import { familyOf, type Family } from '../addresses.ts'
import type { Dialer, RawConnection } from '../contract.ts'
import type { DialGuard } from '../dial-guard.ts'
import type { ExpectedConnections } from '../expected-connections.ts'
import type { ObservedPort } from '../nat/discovery.ts'
import {
  planBehindSameNat,
  punchPlan,
  type NatBehavior,
  type PunchHistory,
  type PunchPlan,
} from '../nat/nat-behavior.ts'
import { natFromWire, natToWire, type ReceivedSignal, type Signal, type Signals, type SignalOf } from '../signals.ts'
import { PunchMemory } from './punch-memory.ts'
import { openSimultaneously, type PunchTls } from './simultaneous-open.ts'

/**
 * TCP between two nodes behind NATs or firewalls, with no more help than a few signals: both dial at the same moment, from ports
 * whose addresses outside an observer has told them.
 *
 *     A                                             B
 *     port, seen at a                               │
 *     punch-connect(nonce, try, a, NAT) ──────────▶ port, seen at b
 *     │ ◀───────────── punch-accept(b, NAT, held) ──┤
 *     the round trip is known                       │
 *     punch-sync ─────────────────────────────────▶ │
 *     half a round trip later:  ──── SYN ▶ ◀ SYN ───┘ at once
 *     │ ◀═══════════════ one connection ══════════▶ │   TLS, and the nonce inside
 *
 * Both SYNs leave within one one-way delay, so that neither NAT sees the other's SYN first and answers it with RST. Each try has
 * new ports and a new measurement; when one is refused, the next begins at once. A peer whose NAT lets other ports in can be
 * dialled by one whose NAT gives every peer another port.
 *
 * Each try is of one address family, that of the address in the signal: IPv6 first where both have it (a firewall alone opens as
 * a NAT does), then the other in turn. For two nodes behind one NAT see `planBehindSameNat`.
 */
export interface HolePuncherOptions extends PunchTls {
  signals: Signals
  expected: ExpectedConnections
  guard: DialGuard
  history: PunchHistory
  /** How our own NAT behaves now, in that family. */
  nat: (family: Family) => NatBehavior
  /** Whether what we send to that address of our NAT leads back in; `undefined` when it is another address, or not known. */
  hairpins: (host: string) => boolean | undefined
  openPort: (family: Family, signal: AbortSignal) => Promise<ObservedPort>
  /** Receives a connection that another node began. */
  incoming: (raw: RawConnection) => void
  closing: AbortSignal
  clock: Clock
  random?: () => number
  log: Log
}

const TRIES = 3
/** For a signal and its answer; longer, and the round trip that it measures would be of no use. */
const ANSWER_MS = 3_000
/** Punches begun by other nodes that run at the same time. */
const MAX_ANSWERING = 16

type Answer = SignalOf<'punch-accept'> | SignalOf<'punch-refuse'>

export class HolePuncher {
  readonly #options: HolePuncherOptions
  readonly #answers = new Map<string, (received: ReceivedSignal<Answer>) => void>()
  readonly #syncs = new Map<string, () => void>()
  readonly #answering = new Set<NodeId>()
  readonly #dialling = new Set<NodeId>()
  readonly #memory: PunchMemory
  readonly dialer: Dialer

  constructor(options: HolePuncherOptions) {
    this.#options = options
    const { signals, history, clock } = options
    this.#memory = new PunchMemory(history, clock)
    signals.on('punch-accept', (received) => this.#receiveAnswer(received))
    signals.on('punch-refuse', (received) => this.#receiveAnswer(received))
    signals.on('punch-sync', ({ from, signal }) => this.#syncs.get(keyOf(from, signal))?.())
    signals.on('punch-connect', (received) => this.#receiveConnect(received))
    this.dialer = {
      path: 'punched',
      suits: (node) => this.#suits(node),
      dial: (node, signal) => this.#dial(node, signal),
    }
  }

  /** Forgets what was learned about others: seen from another network it may be wrong. */
  networkChanged(): void {
    this.#memory.clear()
  }

  // ── we begin ──

  #suits(node: NodeReach): boolean {
    const { signals, nat } = this.#options
    return signals.canReach(node) && this.#memory.familiesTowards(node, nat).length > 0
  }

  async #dial(node: NodeReach, signal: AbortSignal): Promise<RawConnection> {
    const limit = AbortSignal.any([signal, this.#options.closing])
    if (this.#dialling.has(node.id)) throw noPath(node.id, 'a punch is under way')
    this.#dialling.add(node.id)
    try {
      return await this.#tryFamilies(node, limit)
    } finally {
      this.#dialling.delete(node.id)
    }
  }

  async #tryFamilies(node: NodeReach, limit: AbortSignal): Promise<RawConnection> {
    let failure: unknown
    let families = this.#memory.familiesTowards(node, this.#options.nat)
    for (let attempt = 1; attempt <= TRIES && families.length > 0; attempt++) {
      limit.throwIfAborted()
      const [family, ...others] = families as [Family, ...Family[]]
      try {
        return await this.#begin(node, { family, attempt }, limit)
      } catch (error) {
        failure = error
        families = error instanceof Impossible ? others : [...others, family]
      }
    }
    throw failure ?? noPath(node.id, 'no address family in common')
  }

  async #begin(
    node: NodeReach,
    { family, attempt }: { family: Family; attempt: number },
    signal: AbortSignal,
  ): Promise<RawConnection> {
    const { signals, expected, clock, random = Math.random } = this.#options
    const mine = this.#options.nat(family)
    using port = await this.#options.openPort(family, signal)
    using expectation = expected.expect(node.id)
    const { nonce } = expectation
    let theirs: NatBehavior | undefined
    try {
      const sentAt = clock.now()
      const connect: Signal = { type: 'punch-connect', nonce, attempt, address: port.address, nat: natToWire(mine) }
      const received = await this.#exchange(node, connect, signal)
      theirs = natFromWire(received.signal.nat)
      const { plan, to, heldMs } = this.#accept(received, { family, port, mine, theirs })
      const rttMs = Math.max(0, clock.now() - sentAt - heldMs)
      if (!signals.send(node, { type: 'punch-sync', nonce, attempt })) throw noPath(node.id, 'no way to say when')
      const jitter = attempt === 1 ? 0 : (random() * 2 - 1) * Math.min(rttMs / 4, 10)
      await clock.sleep(Math.max(0, rttMs / 2 + jitter), signal)
      const isBehindSameNat = isOneHost(port.address, printHostPort(to.host, to.port))
      const punch = { peer: node.id, nonce, attempt, port, plan, to, isBehindSameNat }
      const stream = await openSimultaneously(punch, expectation, this.#options, signal)
      this.#memory.record(mine, theirs, true)
      return { path: 'punched', stream, via: printHostPort(to.host, to.port), proven: node.id }
    } catch (error) {
      if (attempt === TRIES && theirs !== undefined && !signal.aborted) this.#memory.record(mine, theirs, false)
      throw error
    }
  }

  /** Sends `punch-connect` and waits for the answer. */
  async #exchange(
    node: NodeReach,
    connect: SignalOf<'punch-connect'>,
    signal: AbortSignal,
  ): Promise<ReceivedSignal<Answer>> {
    const key = keyOf(node.id, connect)
    const answer = Promise.withResolvers<ReceivedSignal<Answer>>()
    this.#answers.set(key, answer.resolve)
    try {
      if (!this.#options.signals.send(node, connect)) throw new Impossible(node.id, 'no way to send it a signal')
      return await within(answer.promise, ANSWER_MS, signal)
    } finally {
      this.#answers.delete(key)
    }
  }

  /** How to go on after the peer's answer. @throws Impossible when there is no way */
  #accept(
    { from, seenAddress, signal: answer }: ReceivedSignal<Answer>,
    { family, port, mine, theirs }: { family: Family; port: ObservedPort; mine: NatBehavior; theirs: NatBehavior },
  ): { plan: PunchPlan; to: HostPort; heldMs: number } {
    const isRefused = answer.type === 'punch-refuse'
    const plan = isRefused ? 'impossible' : this.#planFor(from, { port, to: answer.address, mine, theirs })
    const couldWork = punchPlan(mine, theirs) !== 'impossible'
    this.#memory.learn(from, family, { nat: theirs, isRefused: plan === 'impossible' && couldWork })
    if (isRefused || plan === 'impossible') throw new Impossible(from, 'the two NATs cannot be brought together')
    const [to] = this.#options.guard.allowed({ from, seenAddress }, [answer.address], 1)
    if (to === undefined || familyOf(to.host) !== family)
      throw new Impossible(from, 'the address that it gave may not be dialled')
    return { plan, to, heldMs: answer.heldMs }
  }

  /** By how both NATs behave, and by whether both nodes are behind the same one. */
  #planFor(
    peer: NodeId,
    { port, to, mine, theirs }: { port: ObservedPort; to: string; mine: NatBehavior; theirs: NatBehavior },
  ): PunchPlan {
    const { self, hairpins } = this.#options
    const plan = punchPlan(mine, theirs)
    if (!isOneHost(port.address, to) || mine.mapping === 'none') return plan
    return planBehindSameNat(plan, hairpins(parseHostPort(to)?.host ?? ''), self > peer)
  }

  #receiveAnswer(received: ReceivedSignal<Answer>): void {
    this.#answers.get(keyOf(received.from, received.signal))?.(received)
  }

  // ── another node begins ──

  #receiveConnect(received: ReceivedSignal<SignalOf<'punch-connect'>>): void {
    const { self, log } = this.#options
    const { from } = received
    if (this.#answering.size >= MAX_ANSWERING || this.#answering.has(from)) return
    if (this.#dialling.has(from) && self < from) return // both began: the one with the smaller id goes on
    this.#answering.add(from)
    this.#answer(received)
      .catch((error: unknown) => log.debug('a punch failed that another node began', { peer: from, error }))
      .finally(() => this.#answering.delete(from))
  }

  async #answer({
    from,
    seenAddress,
    signal: { nonce, attempt, address, nat },
    reply,
  }: ReceivedSignal<SignalOf<'punch-connect'>>): Promise<void> {
    const { expected, guard, clock, closing, incoming } = this.#options
    const family = familyOf(parseHostPort(address)?.host ?? '')
    const theirs = natFromWire(nat)
    const mine = this.#options.nat(family)
    const receivedAt = clock.now()
    const refuse = () => void reply({ type: 'punch-refuse', nonce, attempt, nat: natToWire(mine) })
    this.#memory.learn(from, family, { nat: theirs, isRefused: false })
    if (punchPlan(mine, theirs) === 'impossible') return refuse()
    const [to] = guard.allowed({ from, seenAddress }, [address], 1)
    if (to === undefined) return refuse()
    using port = await this.#options.openPort(family, closing)
    const plan = this.#planFor(from, { port, to: address, mine, theirs })
    if (plan === 'impossible') {
      this.#memory.learn(from, family, { nat: theirs, isRefused: true })
      return refuse()
    }
    using expectation = expected.expect(from, nonce)
    using sync = this.#awaitSync(keyOf(from, { nonce, attempt }))
    const heldMs = clock.now() - receivedAt
    const accept: Signal = { type: 'punch-accept', nonce, attempt, address: port.address, nat: natToWire(mine), heldMs }
    if (!reply(accept)) return
    await within(sync.arrived, ANSWER_MS, closing)
    const punch = { peer: from, nonce, attempt, port, plan, to, isBehindSameNat: isOneHost(port.address, address) }
    const stream = await openSimultaneously(punch, expectation, this.#options, closing)
    incoming({ path: 'punched', stream, via: address, proven: from })
  }

  #awaitSync(key: string): { arrived: Promise<void> } & Disposable {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#syncs.set(key, resolve)
    return {
      arrived: promise,
      [Symbol.dispose]: () => {
        this.#syncs.delete(key)
      },
    }
  }
}

/** No try of this family is worth it now. */
class Impossible extends MeshError {
  constructor(node: NodeId, reason: string) {
    super('NO_PATH', { node, reason })
  }
}

function noPath(node: NodeId, reason: string): MeshError {
  return new MeshError('NO_PATH', { node, reason })
}

function isOneHost(one: string, other: string): boolean {
  return parseHostPort(one)?.host === parseHostPort(other)?.host
}

function keyOf(peer: NodeId, { nonce, attempt }: { nonce: string; attempt: number }): string {
  return `${peer} ${nonce} ${attempt}`
}
