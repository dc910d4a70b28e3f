import { acceptQueueAt } from '../../src/core/kit/accept-queue.ts'
import { RoundRobin } from '../../src/core/kit/round-robin.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import { type OpenDial, type QueueAt, Unaccepted } from './unaccepted.ts'

/*
 * Who is dialled when. At most `dials` connections to one instance are being opened at a time, since its accept queue is often
 * short; the others wait. Peers take turns at each instance, and the callers of a peer take turns in those of their peer, so that whoever
 * sends a flood of OPENs delays its own flows and not those of others:
 *
 *     enter(instance, by, begin) ─▶ a place is free for this peer ─▶ begins now
 *                                   else it waits in the queue of its peer ─▶ begins when its turn comes
 *
 *     instance A    under way ≤ dials, of which one peer has at most its share
 *                   waiting   peer 1: ▪▪▪▪▪▪▪▪▪▪   peer 2: ▪   peer 3: ▪▪        served 1, 2, 3, 1, 3, 1, 1 …
 *
 * The kernel opens a connection before the program has accepted it, in microseconds; programs accept them in order, some (Node) one in
 * each turn of their event loop. So one that is open keeps its place until it was surely accepted, or the queue would only move into the
 * kernel, where nobody takes turns:
 *
 *     enter ─▶ dialling ──connected──▶ open, not known to be accepted ─┬─ it, or one that was opened after it, has answered ─▶ place free
 *                  └──leave──▶ place free                              └─ the kernel says that fewer wait (accept-queue.ts) ─▶ place free
 *
 * Where the kernel does not know, since the program runs elsewhere, or only a few are open, `ACCEPTED_MS` is long enough.
 *
 * For the same reason only a few begin in one turn of our own event loop.
 */

export interface DialQueueLimits {
  /** Connections being opened to one instance at the same time. Larger: instances with a short accept queue drop some. */
  readonly dials: number
  /** Waiting behind them, for all instances; each costs about a kilobyte. */
  readonly dialsWaiting: number
  /** Begun in one turn of the event loop, for all instances; absent: 32. */
  readonly dialsInOneTurn?: number
}

/** Between looks while dials wait. Smaller: more of the processor; larger: dials wait for longer. */
const CHECK_MS = 20
/** The same while none waits: it only forgets what was opened. */
const IDLE_CHECK_MS = 250

/** Smaller: fewer flows are opened in a second; larger: other flows wait for longer while many are opened. */
const DIALS_IN_ONE_TURN = 32

/**
 * After so many were opened, those that have answered are forgotten: what is kept until the next check outlives two collections, with
 * the sockets of its flow, and then only a collection of everything frees it. Larger: more of them do.
 */
const LOOK_EVERY = 16

/** One peer may use at most this share of an instance's dials, and of all waiting places. Larger: a flood leaves less to others. */
const SHARE = 0.75

/** Whose turn it takes. */
export interface DialledBy {
  readonly peer: NodeId
  /** On that peer. */
  readonly caller: string
}

interface Line {
  underWay: number
  /** They count as under way. */
  readonly unaccepted: Unaccepted
  /** In the order in which their turns come; each is not empty. */
  readonly waiting: Map<NodeId, RoundRobin<() => void>>
  readonly underWayOf: Map<NodeId, number>
}

export class DialQueue {
  readonly #limits: DialQueueLimits
  readonly #lines = new Map<InstanceId, Line>()
  readonly #waitingOf = new Map<NodeId, number>()
  #waiting = 0
  readonly #inOneTurn: number
  readonly #queueAt: QueueAt
  #begunInThisTurn = 0
  #isNextTurnDue = false
  #nextCheck: NodeJS.Timeout | undefined
  #isCheckSoon = false
  #idle: (() => void) | undefined

  /** `queueAt`: how many connections the kernel holds for the program that listens there. */
  constructor(limits: DialQueueLimits, queueAt: QueueAt = acceptQueueAt) {
    this.#limits = limits
    this.#queueAt = queueAt
    this.#inOneTurn = limits.dialsInOneTurn ?? DIALS_IN_ONE_TURN
  }

  /** Dials that wait, for all instances. */
  get waiting(): number {
    return this.#waiting
  }

  /** Whether one more OPEN of this peer may wait. */
  hasRoom(peer: NodeId): boolean {
    const { dialsWaiting } = this.#limits
    return this.#waiting < dialsWaiting && (this.#waitingOf.get(peer) ?? 0) < Math.max(1, dialsWaiting * SHARE)
  }

  /**
   * Calls `begin` in this very call or later; the returned function gives up the wait, and does nothing once it has begun.
   * Whoever has begun calls either `connected` or `leave`, and once.
   */
  enter(instance: InstanceId, { peer, caller }: DialledBy, begin: () => void): () => void {
    const line = this.#lines.get(instance) ?? newLine()
    this.#lines.set(instance, line)
    if (!this.#mayBegin(line, peer)) this.#free(line, line.unaccepted.takeAnswered())
    if (this.#begunInThisTurn < this.#inOneTurn && this.#mayBegin(line, peer)) {
      this.#begin(line, peer, begin)
      return nothing
    }
    const own = line.waiting.get(peer) ?? new RoundRobin()
    line.waiting.set(peer, own)
    own.add(caller, begin)
    this.#countWaiting(peer, 1)
    this.#goOnInTime()
    this.#checkInTime()
    return () => {
      if (!own.delete(caller, begin)) return
      this.#left(line, peer)
      this.#removeIfEmpty(instance, line)
    }
  }

  connected(instance: InstanceId, dial: OpenDial): void {
    const line = this.#lines.get(instance)
    if (line !== undefined) {
      line.unaccepted.add(dial)
      if (line.unaccepted.size % LOOK_EVERY === 0) this.#free(line, line.unaccepted.takeAnswered())
    }
    this.#checkInTime()
  }

  leave(instance: InstanceId, peer: NodeId): void {
    const line = this.#lines.get(instance)
    if (line === undefined) return
    this.#count(line, peer, -1)
    if (this.#begunInThisTurn < this.#inOneTurn) this.#next(line)
    else this.#goOnInTime()
    this.#removeIfEmpty(instance, line)
  }

  /** Resolves when nothing is being dialled. */
  onIdle(): Promise<void> {
    for (const [instance, line] of this.#lines) {
      this.#free(line, line.unaccepted.takeAll())
      this.#removeIfEmpty(instance, line)
    }
    if (this.#lines.size === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#idle = resolve
    })
  }

  #mayBegin(line: Line, peer: NodeId): boolean {
    const { dials } = this.#limits
    return line.underWay < dials && (line.underWayOf.get(peer) ?? 0) < Math.max(1, dials * SHARE)
  }

  /** The first that may begin, if one may; its peer goes to the end of the round. */
  #next(line: Line): boolean {
    for (const [peer, own] of line.waiting) {
      if (!this.#mayBegin(line, peer)) continue
      const begin = own.take()
      if (begin === undefined) continue
      line.waiting.delete(peer)
      line.waiting.set(peer, own)
      this.#left(line, peer)
      this.#begin(line, peer, begin)
      return true
    }
    return false
  }

  #begin(line: Line, peer: NodeId, begin: () => void): void {
    this.#count(line, peer, 1)
    this.#begunInThisTurn += 1
    this.#goOnInTime()
    begin()
  }

  /** What may begin and has not, in the next turn of the event loop. */
  #goOnInTime(): void {
    if (this.#isNextTurnDue) return
    this.#isNextTurnDue = true
    setImmediate(() => {
      this.#isNextTurnDue = false
      this.#begunInThisTurn = 0
      if (this.#waiting > 0) this.#goOn()
    })
  }

  /** One of each instance after the other. */
  #goOn(): void {
    const lines = new Set(this.#lines.values())
    while (lines.size > 0) {
      for (const line of lines) {
        if (this.#begunInThisTurn >= this.#inOneTurn) return
        if (!this.#next(line)) lines.delete(line)
      }
    }
  }

  /** Places of connections that were accepted. */
  #free(line: Line, accepted: readonly OpenDial[]): void {
    for (const { peer } of accepted) this.#count(line, peer, -1)
  }

  #checkInTime(): void {
    const isSoon = this.#waiting > 0
    if (this.#nextCheck !== undefined && (this.#isCheckSoon || !isSoon)) return
    clearTimeout(this.#nextCheck)
    this.#isCheckSoon = isSoon
    this.#nextCheck = setTimeout(() => this.#checkAll(), isSoon ? CHECK_MS : IDLE_CHECK_MS).unref()
  }

  #checkAll(): void {
    this.#nextCheck = undefined
    for (const line of this.#lines.values()) this.#free(line, line.unaccepted.takeAccepted(this.#queueAt))
    this.#goOn()
    for (const [instance, line] of this.#lines) this.#removeIfEmpty(instance, line)
    if (this.#lines.size > 0) this.#checkInTime()
  }

  #removeIfEmpty(instance: InstanceId, line: Line): void {
    if (line.underWay > 0 || line.waiting.size > 0) return
    this.#lines.delete(instance)
    if (this.#lines.size === 0) this.#idle?.()
  }

  #left(line: Line, peer: NodeId): void {
    this.#countWaiting(peer, -1)
    if (line.waiting.get(peer)?.size === 0) line.waiting.delete(peer)
  }

  #count(line: Line, peer: NodeId, by: 1 | -1): void {
    line.underWay += by
    add(line.underWayOf, peer, by)
  }

  #countWaiting(peer: NodeId, by: 1 | -1): void {
    this.#waiting += by
    add(this.#waitingOf, peer, by)
  }
}

function newLine(): Line {
  return { underWay: 0, unaccepted: new Unaccepted(), waiting: new Map(), underWayOf: new Map() }
}

function add(counts: Map<NodeId, number>, peer: NodeId, by: 1 | -1): void {
  const count = (counts.get(peer) ?? 0) + by
  if (count === 0) counts.delete(peer)
  else counts.set(peer, count)
}

const nothing = (): void => undefined
