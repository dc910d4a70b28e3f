import { MeshError } from '../../../src/core/errors.ts'
import { within } from '../../../src/core/kit/abort.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import { familyOf, type Family } from '../addresses.ts'
import type { ExpectedConnections } from '../expected-connections.ts'
import type { Dialer, RawConnection } from '../contract.ts'
import type { DialGuard } from '../dial-guard.ts'
import { planBehindOne, type PunchBook, punchPlan, type NatClass, type PunchPlan } from '../nat/nat-behavior.ts'
import type { SeenPort } from '../nat/discovery.ts'
import { punch, type PunchParts } from './simultaneous-open.ts'
import { PunchMemory } from './punch-memory.ts'
import type { Heard, Signal, Signals, SignalOf } from '../signals.ts'
import { parseHostPort, printHostPort } from '../../../src/core/kit/host-port.ts'

/**
 * TCP between two nodes behind NATs or firewalls, without anybody's help but a few signals: both dial at the same moment, from
 * ports of which an observer has said where others see them (TUNNELS.md §2.1).
 *
 *     A                                             B
 *     port, seen at a                               │
 *     punch-connect(nonce, try, a, class) ────────▶ port, seen at b
 *     │ ◀──────────── punch-accept(b, class, held) ─┤
 *     round trip is known                           │
 *     punch-sync ─────────────────────────────────▶ │
 *     half a round trip later:  ──── SYN ▶ ◀ SYN ───┘ at once
 *     │ ◀═══════════════ one connection ══════════▶ │   TLS, and the nonce inside
 *
 * Both SYNs leave within one one-way delay: then neither NAT has seen the other's first, and answered it with RST. Each try has
 * new ports and a new measure; refused, the next begins at once. A peer that listens on its port as well (class `open`) can be
 * called by one whose NAT gives every peer another port.
 *
 * Each try is of one address family, the one of the address that is told: IPv6 first where both have it (a firewall only, which opens
 * as a NAT does), then the other in turn. Two nodes behind one NAT are a case of their own (nat-class.ts, `planBehindOne`).
 */
export interface PunchedOptions extends PunchParts {
  signals: Signals
  calls: ExpectedConnections
  guard: DialGuard
  book: PunchBook
  /** Our own class now, in that family. */
  nat: (family: Family) => NatClass
  /** Whether our NAT leads back in what is sent to that address, which is ours outside; `undefined`: not ours, or not known. */
  leadsBack: (host: string) => boolean | undefined
  openPort: (family: Family, signal: AbortSignal) => Promise<SeenPort>
  /** What becomes of a connection that another node began. */
  incoming: (raw: RawConnection) => void
  closing: AbortSignal
  clock: Clock
  random?: () => number
  log: Log
}

const TRIES = 3
/** A signal and its answer; longer, and the round trip would be no use. */
const ANSWER_MS = 3_000
/** Punches that other nodes began, at once. */
const MAX_ANSWERING = 16

type Answer = SignalOf<'punch-accept'> | SignalOf<'punch-refuse'>

export class Punching {
  readonly #options: PunchedOptions
  readonly #answers = new Map<string, (heard: Heard<Answer>) => void>()
  readonly #syncs = new Map<string, () => void>()
  readonly #answering = new Set<NodeId>()
  readonly #calling = new Set<NodeId>()
  readonly #memory: PunchMemory
  readonly dialer: Dialer

  constructor(options: PunchedOptions) {
    this.#options = options
    const { signals, book, clock } = options
    this.#memory = new PunchMemory(book, clock)
    signals.on('punch-accept', (heard) => this.#heardAnswer(heard))
    signals.on('punch-refuse', (heard) => this.#heardAnswer(heard))
    signals.on('punch-sync', ({ from, signal }) => this.#syncs.get(keyOf(from, signal))?.())
    signals.on('punch-connect', (heard) => this.#heardConnect(heard))
    this.dialer = {
      path: 'punched',
      suits: (node) => this.#suits(node),
      dial: (node, signal) => this.#dial(node, signal),
    }
  }

  /** What was learned of others may be wrong from another network. */
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
    if (this.#calling.has(node.id)) throw noPath(node.id, 'a punch is under way')
    this.#calling.add(node.id)
    try {
      let failure: unknown
      let families = this.#memory.familiesTowards(node, this.#options.nat)
      for (let attempt = 1; attempt <= TRIES && families.length > 0; attempt++) {
        limit.throwIfAborted()
        const [family, ...others] = families as [Family, ...Family[]]
        try {
          return await this.#begin(node, { family, attempt }, limit)
        } catch (error) {
          failure = error
          families = error instanceof Hopeless ? others : [...others, family]
        }
      }
      throw failure ?? noPath(node.id, 'no address family in common')
    } finally {
      this.#calling.delete(node.id)
    }
  }

  async #begin(
    node: NodeReach,
    { family, attempt }: { family: Family; attempt: number },
    signal: AbortSignal,
  ): Promise<RawConnection> {
    const { signals, calls, guard, clock, random = Math.random } = this.#options
    const mine = this.#options.nat(family)
    using seen = await this.#options.openPort(family, signal)
    using call = calls.expect(node.id)
    const { nonce } = call
    const key = keyOf(node.id, { nonce, attempt })
    const told = Promise.withResolvers<Heard<Answer>>()
    this.#answers.set(key, told.resolve)
    const sentAt = clock.now()
    let theirs: NatClass | undefined
    try {
      const connect: Signal = { type: 'punch-connect', nonce, attempt, address: seen.address, nat: mine }
      if (!signals.send(node, connect)) throw new Hopeless(node.id, 'no way to say something to it')
      const { signal: answer, seen: seenAt } = await within(told.promise, ANSWER_MS, signal)
      theirs = answer.nat
      const isRefused = answer.type === 'punch-refuse'
      const plan = isRefused ? 'hopeless' : this.#planFor(node.id, { seen, to: answer.address, mine, theirs })
      const couldWork = punchPlan(mine, theirs) !== 'hopeless'
      this.#memory.learn(node.id, family, { nat: theirs, isRefused: plan === 'hopeless' && couldWork })
      if (isRefused || plan === 'hopeless') throw new Hopeless(node.id, 'these networks do not let each other in')
      const [to] = guard.allowed({ from: node.id, seen: seenAt }, [answer.address], 1)
      if (to === undefined || familyOf(to.host) !== family)
        throw new Hopeless(node.id, 'it is not dialled at the address that it gives')
      const rttMs = Math.max(0, clock.now() - sentAt - answer.heldMs)
      if (!signals.send(node, { type: 'punch-sync', nonce, attempt })) throw noPath(node.id, 'no way to say when')
      const jitter = attempt === 1 ? 0 : (random() * 2 - 1) * Math.min(rttMs / 4, 10)
      await clock.sleep(Math.max(0, rttMs / 2 + jitter), signal)
      const one = { peer: node.id, nonce, attempt, seen, plan, to, isTurned: isOneHost(seen.address, answer.address) }
      const stream = await punch(one, call, this.#options, signal)
      this.#memory.record(mine, theirs, true)
      return { path: 'punched', stream, via: printHostPort(to.host, to.port), proven: node.id }
    } catch (error) {
      if (attempt === TRIES && theirs !== undefined && !signal.aborted) this.#memory.record(mine, theirs, false)
      throw error
    } finally {
      this.#answers.delete(key)
    }
  }

  /** By the classes; and by whether both are behind the same NAT. */
  #planFor(
    peer: NodeId,
    { seen, to, mine, theirs }: { seen: SeenPort; to: string; mine: NatClass; theirs: NatClass },
  ): PunchPlan {
    const { self, leadsBack } = this.#options
    const plan = punchPlan(mine, theirs)
    if (!isOneHost(seen.address, to) || mine.mapping === 'none') return plan
    return planBehindOne(plan, leadsBack(parseHostPort(to)?.host ?? ''), self > peer)
  }

  #heardAnswer(heard: Heard<Answer>): void {
    this.#answers.get(keyOf(heard.from, heard.signal))?.(heard)
  }

  // ── another node begins ──

  #heardConnect(heard: Heard<SignalOf<'punch-connect'>>): void {
    const { self, log } = this.#options
    const { from } = heard
    if (this.#answering.size >= MAX_ANSWERING || this.#answering.has(from)) return
    if (this.#calling.has(from) && self < from) return // both began: the one with the smaller id goes on
    this.#answering.add(from)
    this.#answer(heard)
      .catch((error: unknown) => log.debug('a punch did not come through', { peer: from, error }))
      .finally(() => this.#answering.delete(from))
  }

  async #answer({
    from,
    seen: seenAt,
    signal: { nonce, attempt, address, nat: theirs },
    reply,
  }: Heard<SignalOf<'punch-connect'>>) {
    const { calls, guard, clock, closing, incoming } = this.#options
    const family = familyOf(parseHostPort(address)?.host ?? '')
    const mine = this.#options.nat(family)
    const heardAt = clock.now()
    const refuse = () => void reply({ type: 'punch-refuse', nonce, attempt, nat: mine })
    this.#memory.learn(from, family, { nat: theirs, isRefused: false })
    if (punchPlan(mine, theirs) === 'hopeless') return refuse()
    const [to] = guard.allowed({ from, seen: seenAt }, [address], 1)
    if (to === undefined) return refuse()
    using seen = await this.#options.openPort(family, closing)
    const plan = this.#planFor(from, { seen, to: address, mine, theirs })
    if (plan === 'hopeless') {
      this.#memory.learn(from, family, { nat: theirs, isRefused: true })
      return refuse()
    }
    using call = calls.expect(from, nonce)
    const key = keyOf(from, { nonce, attempt })
    const told = Promise.withResolvers<void>()
    this.#syncs.set(key, told.resolve)
    try {
      const heldMs = clock.now() - heardAt
      if (!reply({ type: 'punch-accept', nonce, attempt, address: seen.address, nat: mine, heldMs })) return
      await within(told.promise, ANSWER_MS, closing)
      const one = { peer: from, nonce, attempt, seen, plan, to, isTurned: isOneHost(seen.address, address) }
      const stream = await punch(one, call, this.#options, closing)
      incoming({ path: 'punched', stream, via: address, proven: from })
    } finally {
      this.#syncs.delete(key)
    }
  }
}

/** Not worth another try now. */
class Hopeless extends MeshError {
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
