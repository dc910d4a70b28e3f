import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../src/errors.ts'
import type { Clock } from '../../src/kit/clock.ts'
import type { Log } from '../../src/kit/log.ts'
import type { NodeId } from '../../src/model/ids.ts'
import type { NodeReach } from '../../src/model/node.ts'
import { printHostPort } from './addresses.ts'
import type { Call, Calls } from './calls.ts'
import type { Dialer, RawConnection } from './contract.ts'
import type { DialGuard } from './guard.ts'
import { isTlsServer, type PunchBook, punchPlan, type NatClass, type PunchPlan } from './nat-class.ts'
import type { SeenPort } from './observe.ts'
import type { Place } from './punch-port.ts'
import type { Heard, Signal, Signals, SignalOf } from './signals.ts'

/**
 * TCP between two nodes behind NATs, without anybody's help but a few signals: both dial at the same moment, from ports of which
 * an observer has said where others see them (TUNNELS.md §2.1).
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
 */
export interface PunchedOptions {
  self: NodeId
  signals: Signals
  calls: Calls
  guard: DialGuard
  book: PunchBook
  /** Our own class now. */
  nat: () => NatClass
  openPort: (signal: AbortSignal) => Promise<SeenPort>
  /** TLS as the client, and the nonce inside. */
  present: (raw: RawConnection, peer: NodeId, nonce: string, signal: AbortSignal) => Promise<Duplex>
  /** TLS as the server; what presents the right nonce is claimed from `calls`. */
  serve: (raw: RawConnection) => Promise<unknown>
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
/** The SYN that the system sends after 1 s and after 3 s may be the one that gets through (TUNNELS.md §2.1). */
const FIRE_MS = 4_000
/** A refused SYN of ours may cross one of the peer's that gets through. */
const GRACE_MS = 300
const SECURE_MS = 3_000
/** Punches that other nodes began, at once. */
const MAX_ANSWERING = 16
/** What a peer's network is like is remembered for so long: a hopeless pair is not asked again. */
const CLASS_MS = 600_000
const MAX_CLASSES = 1_024

type Answer = SignalOf<'punch-accept'> | SignalOf<'punch-refuse'>

/** One try, from this side. */
interface Try {
  readonly peer: NodeId
  readonly nonce: string
  readonly attempt: number
  readonly seen: SeenPort
  readonly plan: PunchPlan
  readonly to: Place
}

export class Punching {
  readonly #options: PunchedOptions
  readonly #answers = new Map<string, (answer: Answer) => void>()
  readonly #syncs = new Map<string, () => void>()
  readonly #answering = new Set<NodeId>()
  readonly #calling = new Set<NodeId>()
  readonly #classes = new Map<NodeId, { nat: NatClass; at: number }>()
  readonly dialer: Dialer

  constructor(options: PunchedOptions) {
    this.#options = options
    const { signals } = options
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
    this.#classes.clear()
    this.#options.book.clear()
  }

  // ── we begin ──

  #suits(node: NodeReach): boolean {
    const { nat, signals, book, clock } = this.#options
    const mine = nat()
    if (mine.mapping === 'unknown' || !signals.canReach(node)) return false
    const known = this.#classes.get(node.id)
    if (known === undefined || clock.now() - known.at > CLASS_MS) return true
    return punchPlan(mine, known.nat) !== 'hopeless' && book.allows(mine, known.nat, clock.now())
  }

  async #dial(node: NodeReach, signal: AbortSignal): Promise<RawConnection> {
    const limit = AbortSignal.any([signal, this.#options.closing])
    if (this.#calling.has(node.id)) throw noPath(node.id, 'a punch is under way')
    this.#calling.add(node.id)
    try {
      let failure: unknown
      for (let attempt = 1; attempt <= TRIES; attempt++) {
        limit.throwIfAborted()
        try {
          return await this.#begin(node, attempt, limit)
        } catch (error) {
          failure = error
          if (error instanceof Hopeless) break
        }
      }
      throw failure
    } finally {
      this.#calling.delete(node.id)
    }
  }

  async #begin(node: NodeReach, attempt: number, signal: AbortSignal): Promise<RawConnection> {
    const { signals, calls, guard, book, clock, nat, random = Math.random } = this.#options
    using seen = await this.#options.openPort(signal)
    using call = calls.expect(node.id)
    const { nonce } = call
    const key = keyOf(node.id, { nonce, attempt })
    const told = Promise.withResolvers<Answer>()
    this.#answers.set(key, told.resolve)
    const sentAt = clock.now()
    try {
      const connect: Signal = { type: 'punch-connect', nonce, attempt, address: seen.address, nat: nat() }
      if (!signals.send(node, connect)) throw new Hopeless(node.id, 'no way to say something to it')
      const answer = await within(told.promise, ANSWER_MS, signal)
      this.#learn(node.id, answer.nat)
      const plan = punchPlan(nat(), answer.nat)
      if (answer.type === 'punch-refuse' || plan === 'hopeless')
        throw new Hopeless(node.id, 'these networks do not let each other in')
      const [to] = guard.allowed({ from: node.id, seen: undefined }, [answer.address], 1)
      if (to === undefined) throw new Hopeless(node.id, 'it is not dialled at the address that it gives')
      const rttMs = Math.max(0, clock.now() - sentAt - answer.heldMs)
      if (!signals.send(node, { type: 'punch-sync', nonce, attempt })) throw noPath(node.id, 'no way to say when')
      const jitter = attempt === 1 ? 0 : (random() * 2 - 1) * Math.min(rttMs / 4, 10)
      await clock.sleep(Math.max(0, rttMs / 2 + jitter), signal)
      const stream = await this.#fire({ peer: node.id, nonce, attempt, seen, plan, to }, call, signal)
      book.record(nat(), answer.nat, true, clock.now())
      return { path: 'punched', stream, via: printHostPort(to.host, to.port), proven: node.id }
    } catch (error) {
      const theirs = this.#classes.get(node.id)?.nat
      if (attempt === TRIES && theirs !== undefined && !signal.aborted) book.record(nat(), theirs, false, clock.now())
      throw error
    } finally {
      this.#answers.delete(key)
    }
  }

  #heardAnswer({ from, signal }: Heard<Answer>): void {
    this.#answers.get(keyOf(from, signal))?.(signal)
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
    const { calls, guard, clock, closing, nat, incoming } = this.#options
    const mine = nat()
    const plan = punchPlan(mine, theirs)
    this.#learn(from, theirs)
    const heardAt = clock.now()
    const refuse = () => void reply({ type: 'punch-refuse', nonce, attempt, nat: mine })
    if (plan === 'hopeless') return refuse()
    const [to] = guard.allowed({ from, seen: seenAt }, [address], 1)
    if (to === undefined) return refuse()
    using seen = await this.#options.openPort(closing)
    using call = calls.expect(from, nonce)
    const key = keyOf(from, { nonce, attempt })
    const told = Promise.withResolvers<void>()
    this.#syncs.set(key, told.resolve)
    try {
      const heldMs = clock.now() - heardAt
      if (!reply({ type: 'punch-accept', nonce, attempt, address: seen.address, nat: mine, heldMs })) return
      await within(told.promise, ANSWER_MS, closing)
      const stream = await this.#fire({ peer: from, nonce, attempt, seen, plan, to }, call, closing)
      incoming({ path: 'punched', stream, via: address, proven: from })
    } finally {
      this.#syncs.delete(key)
    }
  }

  #learn(node: NodeId, nat: NatClass): void {
    if (this.#classes.size >= MAX_CLASSES) this.#classes.clear()
    this.#classes.set(node, { nat, at: this.#options.clock.now() })
  }

  // ── the moment ──

  /** Resolves with the connection, secured. */
  async #fire(one: Try, call: Call, signal: AbortSignal): Promise<Duplex> {
    const { self, present, serve } = this.#options
    const { peer, nonce, plan, seen, to } = one
    const limit = AbortSignal.any([signal, AbortSignal.timeout(FIRE_MS + SECURE_MS)])
    const isServer = isTlsServer(plan, self, peer)
    const raw = (socket: Socket): RawConnection => ({
      path: 'punched',
      stream: seen.port.keep(socket),
      via: printHostPort(to.host, to.port),
    })
    if (plan === 'wait') {
      // whoever comes may try; the nonce decides
      const take = (socket: Socket) => void serve(raw(socket)).catch(() => socket.destroy())
      seen.port.listen(take)
      const opener = seen.port.dial(to)
      opener.once('connect', () => take(opener)) // both met, as if by plan
      return await within(call.arrived, FIRE_MS, limit)
    }
    const socket = await connected(one, limit)
    if (!isServer) return await present(raw(socket), peer, nonce, limit)
    const served = serve(raw(socket))
    return await Promise.race([
      within(call.arrived, SECURE_MS, limit),
      served.then(
        () => within(call.arrived, SECURE_MS, limit),
        (error: unknown) => Promise.reject(error as Error),
      ),
    ])
  }
}

/** By our own SYN, or by the peer's, which our listener takes where our NAT lets it in first. */
function connected({ seen, to }: Try, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const timers: NodeJS.Timeout[] = []
    const settle = () => {
      for (const timer of timers) clearTimeout(timer)
      signal.removeEventListener('abort', aborted)
    }
    const fail = (cause: unknown) => {
      settle()
      reject(new MeshError('NO_PATH', { address: printHostPort(to.host, to.port) }, { cause }))
    }
    const won = (socket: Socket) => {
      settle()
      resolve(seen.port.keep(socket))
    }
    const aborted = () => fail(signal.reason)
    signal.addEventListener('abort', aborted, { once: true })
    timers.push(setTimeout(() => fail(new Error('no answer')), FIRE_MS))
    seen.port.listen((socket) => {
      if (isFrom(socket, to)) won(socket)
      else socket.destroy()
    })
    const socket = seen.port.dial(to)
    socket.once('connect', () => won(socket))
    socket.once('error', (error) => timers.push(setTimeout(() => fail(error), GRACE_MS)))
  })
}

function isFrom({ remoteAddress, remotePort }: Socket, { host, port }: Place): boolean {
  return remoteAddress?.replace(/^::ffff:(?=\d)/, '') === host && remotePort === port
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

function keyOf(peer: NodeId, { nonce, attempt }: { nonce: string; attempt: number }): string {
  return `${peer} ${nonce} ${attempt}`
}

function within<T>(promise: Promise<T>, ms: number, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const over = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', aborted)
    }
    const aborted = () => reject(signal.reason as Error)
    const timer = setTimeout(() => reject(new MeshError('REQUEST_TIMEOUT', { ms })), ms)
    signal.addEventListener('abort', aborted, { once: true })
    if (signal.aborted) aborted()
    promise.then(resolve, reject).finally(over)
  })
}
