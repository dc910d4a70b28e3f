import PQueue from 'p-queue'
import { explain, MeshError } from '../../../src/core/errors.ts'
import { Backoff } from '../../../src/core/kit/backoff.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { Deadline } from '../../../src/core/kit/deadline.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { Dialer } from '../../paths/contract.ts'
import { rankOf } from '../session/placement.ts'
import type { TunnelSession } from '../session/session.ts'
import type { Connector } from './connector.ts'
import type { CarrierRole } from './handshake.ts'
import { race, RaceLost, type Contender } from './path-race.ts'
import type { PathHistory } from './path-history.ts'
import { PeerRecords, type PeerState } from './peer-state.ts'
import type { Proposals } from './proposals.ts'

export interface DiallingOptions {
  dialers: readonly Dialer[]
  connector: Connector
  proposals: Proposals
  clock: Clock
  random: () => number
  /** How the table says a node can be reached. */
  reach: ((node: NodeId) => NodeReach | undefined) | undefined
  /** Dials at the same time. */
  dials: number
  closing: AbortSignal
}

/** What dialling keeps of a peer. */
interface DialRecord {
  /** How it could be reached when somebody last looked. */
  reach: NodeReach | undefined
  /** Races under way. */
  races: number
  /** What callers of `connect` wait for together. */
  arriving: PromiseWithResolvers<TunnelSession> | undefined
  readonly backoff: Backoff
  /** After a failure nobody dials until then. */
  restUntil: number
  lastError: unknown
}

/** One race of dials. */
export interface Race {
  dialers: readonly Dialer[]
  /** Of the carrier that comes. */
  role?: CarrierRole
  queue?: PQueue
  ms?: number
  until?: AbortSignal
  /** The path that worked a moment ago: it does not wait for better ones. */
  had?: PathKind | undefined
}

/** All of one race, over all paths. */
const RACE_MS = 10_000
/** Rests after dials that failed. Smaller: a dead node is dialled for each flow; larger: flows wait for one that is back. */
const REST = { firstMs: 100, limitMs: 1_000 }

/** Dials nodes: once for all who ask for the same node, over every path at once. */
export class Dialling {
  readonly #options: DiallingOptions
  readonly #queue: PQueue
  readonly #records: PeerRecords<DialRecord>

  constructor(options: DiallingOptions) {
    this.#options = options
    this.#queue = new PQueue({ concurrency: options.dials })
    this.#records = new PeerRecords(() => ({
      reach: undefined,
      races: 0,
      arriving: undefined,
      backoff: new Backoff({ ...REST, random: options.random }),
      restUntil: 0,
      lastError: undefined,
    }))
  }

  isDialling(peer: PeerState): boolean {
    return this.#records.of(peer).races > 0
  }

  /** A caller knows how the node can be reached. */
  learn(peer: PeerState, reach: NodeReach): void {
    this.#records.of(peer).reach = reach
  }

  /** How the node can be reached now, as nodes move; otherwise how it could be. */
  reachOf(peer: PeerState): NodeReach | undefined {
    const record = this.#records.of(peer)
    record.reach = this.#options.reach?.(peer.node) ?? record.reach
    return record.reach
  }

  /**
   * A session with the node; all who ask while it is dialled wait for the same one.
   * @throws MeshError NO_PATH at once while it rests after a failure
   */
  connect(peer: PeerState): Promise<TunnelSession> {
    const record = this.#records.of(peer)
    if (record.arriving !== undefined) return record.arriving.promise
    if (this.#options.clock.now() < record.restUntil) {
      const details = { node: peer.node, reason: 'it was tried a moment ago' }
      return Promise.reject(new MeshError('NO_PATH', details, { cause: record.lastError }))
    }
    const arriving = Promise.withResolvers<TunnelSession>()
    record.arriving = arriving
    arriving.promise.catch(ignore) // everybody who asked may have given up
    void this.race(peer, { dialers: this.#options.dialers.filter(isQuick) }).then(
      (session) => this.arrived(peer, session),
      (error: unknown) => this.#failed(record, arriving, error),
    )
    return arriving.promise
  }

  /** There is a session, by our dial or by the peer's. */
  arrived(peer: PeerState, session: TunnelSession): void {
    const record = this.#records.of(peer)
    record.backoff.reset()
    record.arriving?.resolve(session)
    record.arriving = undefined
  }

  #failed(record: DialRecord, arriving: PromiseWithResolvers<TunnelSession>, error: unknown): void {
    record.lastError = error
    record.restUntil = this.#options.clock.now() + record.backoff.nextMs()
    arriving.reject(error)
    if (record.arriving === arriving) record.arriving = undefined
  }

  /** The network has changed: what failed did so in one that is gone. */
  networkChanged(peer: PeerState): void {
    const record = this.#records.of(peer)
    record.backoff.reset()
    record.restUntil = 0
  }

  /** One race over `dialers`; the first carrier wins. @throws MeshError NO_PATH */
  async race(peer: PeerState, how: Race): Promise<TunnelSession> {
    const record = this.#records.of(peer)
    const { reach } = record
    if (reach === undefined)
      throw new MeshError('NO_PATH', { node: peer.node, reason: 'this node has not learnt how to reach it' })
    const { queue = this.#queue } = how
    record.races += 1
    try {
      return await queue.add(() => this.#run(peer, reach, how))
    } catch (cause) {
      throw noPath(peer.node, cause)
    } finally {
      record.races -= 1
      if (record.races === 0) this.#options.proposals.withdraw(peer)
    }
  }

  async #run(peer: PeerState, reach: NodeReach, how: Race): Promise<TunnelSession> {
    const { clock, closing } = this.#options
    using limit = new Deadline(clock, how.ms ?? RACE_MS, how.until ?? closing)
    limit.signal.throwIfAborted()
    const suited = how.dialers.filter((dialer) => dialer.suits(reach))
    const contenders = suited.map((dialer) => this.#contender(peer, reach, { ...how, dialer, dialers: suited }))
    try {
      return await race(contenders, clock, limit.signal)
    } catch (error) {
      if (error instanceof RaceLost) for (const { path } of error.failures) peer.history.failed(path, clock.now())
      throw error
    }
  }

  #contender(peer: PeerState, reach: NodeReach, how: Race & { dialer: Dialer }): Contender<TunnelSession> {
    const { connector, clock } = this.#options
    const { dialer, dialers, had, role = 'more' } = how
    const { history } = peer
    const isUnlikely = isBetter(dialer.path, had) || history.hasFailed(dialer.path, clock.now())
    return {
      path: dialer.path,
      reachability: isUnlikely ? 'unlikely' : dialer.reachability?.(reach),
      run: async (signal) => {
        const session = await connector.dial(peer, { reach, dialer, role }, signal)
        history.arrived(dialer.path)
        if (!signal.aborted) outran(history, dialer.path, { field: dialers, now: clock.now() })
        return session
      },
    }
  }
}

/** The next race need not wait for those that this path has outrun. */
function outran(history: PathHistory, path: PathKind, race: { field: readonly Dialer[]; now: number }): void {
  for (const other of race.field) if (isBetter(other.path, path)) history.failed(other.path, race.now)
}

function isBetter(path: PathKind, other: PathKind | undefined): boolean {
  return other !== undefined && rankOf(path) < rankOf(other)
}

/** Nobody waits for a punch: it is for later, when there is a session to improve. */
export function isQuick({ path }: Dialer): boolean {
  return path !== 'punched'
}

function noPath(node: NodeId, cause: unknown): MeshError {
  const isLost = cause instanceof RaceLost
  const tried = isLost ? cause.failures.map(({ path, error }) => `${path}: ${explain(error)}`) : [explain(cause)]
  return new MeshError('NO_PATH', { node, tried }, { cause: isLost ? cause.cause : cause })
}
