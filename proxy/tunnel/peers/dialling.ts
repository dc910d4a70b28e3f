import PQueue from 'p-queue'
import { explain, MeshError } from '../../../src/core/errors.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import type { Dialer } from '../../paths/contract.ts'
import type { CarrierRole, Connector } from './connector.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import { Deadline } from '../../../src/core/kit/deadline.ts'
import type { PeerState } from './peer-state.ts'
import { rankOf } from '../session/placement.ts'
import { race, RaceLost, type Contender } from './path-race.ts'
import type { TunnelSession } from '../session/session.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'

export interface DiallingOptions {
  dialers: readonly Dialer[]
  connector: Connector
  clock: Clock
  reach: ((node: NodeId) => NodeReach | undefined) | undefined
  /** Dials at the same time. */
  dials: number
  closing: AbortSignal
}

/** All of one dial, over all paths. */
const DIAL_MS = 10_000
/**
 * Of one dial for a session at risk: a SYN that was swallowed is sent again after 1 s and then 3 s, but the path may be back at
 * any moment, so a new one begins while others hang; ever more slowly, as it may be a relay that all its nodes come back to.
 */
const REDIAL_MS = 2_500
const REDIALS = 5
const REDIAL_AGAIN_MS = { first: 250, most: 750 }

/** Dials nodes: once for all who ask, and again and again for a session whose streams wait. */
export class Dialling {
  readonly #options: DiallingOptions
  readonly #dials: PQueue
  readonly #redials: PQueue

  constructor(options: DiallingOptions) {
    this.#options = options
    this.#dials = new PQueue({ concurrency: options.dials })
    this.#redials = new PQueue({ concurrency: options.dials * 4 })
  }

  /** What callers of `session` wait for together. */
  start(known: PeerState): PromiseWithResolvers<TunnelSession> {
    const arriving = Promise.withResolvers<TunnelSession>()
    known.arriving = arriving
    arriving.promise.catch(ignore) // everybody who asked may have given up
    void this.dial(known, this.#options.dialers.filter(isQuick)).then(
      (session) => {
        known.backoff.reset()
        arriving.resolve(session)
      },
      (error: unknown) => {
        known.lastError = error
        known.restUntil = this.#options.clock.now() + known.backoff.nextMs()
        arriving.reject(error)
        if (known.arriving === arriving) known.arriving = undefined
      },
    )
    return arriving
  }

  /**
   * `role`: of the carrier that comes.
   * @throws MeshError NO_PATH
   */
  dial(known: PeerState, dialers: readonly Dialer[], role: CarrierRole = 'more'): Promise<TunnelSession> {
    return this.#race(known, dialers, { queue: this.#dials, ms: DIAL_MS, until: this.#options.closing, role })
  }

  /** One more try for a session at risk, when one is due; over every path, as nobody knows which comes back first. */
  redial(known: PeerState): void {
    const { clock, dialers, closing, reach } = this.#options
    const now = clock.now()
    if (known.redials >= REDIALS || now < known.redialAt || closing.aborted) return
    known.reach = reach?.(known.node) ?? known.reach // it may be there no more where it was
    if (known.reach === undefined) return
    const { first, most } = REDIAL_AGAIN_MS
    const spacedMs = known.redials === 0 ? 0 : Math.min(most, first * 2 ** (known.redials - 1))
    known.redialAt = now + Math.max(spacedMs, known.redialBackoff.nextMs())
    known.redials += 1
    const until = AbortSignal.any([closing, known.redialing.signal])
    const had = known.session?.path
    this.#race(known, dialers.filter(isQuick), { queue: this.#redials, ms: REDIAL_MS, until, had })
      .catch(ignore) // the next is due soon
      .finally(() => {
        known.redials -= 1
      })
  }

  /** One more try for a session at risk now, as there is a way that was not there before. */
  soon(known: PeerState): void {
    known.redialBackoff.reset()
    known.redialAt = 0
    this.redial(known)
  }

  /** The session is safe again: what is still being dialled for it may stop. */
  safe(known: PeerState): void {
    known.redialBackoff.reset()
    if (known.redials === 0) return
    known.redialing.abort(new MeshError('NO_PATH', { node: known.node, reason: 'another dial was faster' }))
    known.redialing = new AbortController()
  }

  /** What failed, or hangs, did so in a network that is not there any more. */
  afresh(known: PeerState): void {
    known.backoff.reset()
    known.restUntil = 0
    known.redialBackoff.reset()
    known.redialAt = 0
    known.redialing.abort(new MeshError('NO_PATH', { node: known.node, reason: 'the network has changed' }))
    known.redialing = new AbortController()
  }

  async #race(known: PeerState, dialers: readonly Dialer[], how: How): Promise<TunnelSession> {
    const { connector, clock } = this.#options
    const { reach } = known
    if (reach === undefined) throw new MeshError('NO_PATH', { node: known.node, reason: 'nothing is known of it' })
    known.dials += 1
    try {
      return await how.queue.add(async () => {
        using limit = new Deadline(clock, how.ms, how.until)
        limit.signal.throwIfAborted()
        const runners: readonly Contender<TunnelSession>[] = dialers
          .filter((dialer) => dialer.suits(reach))
          .map((dialer) => ({
            path: dialer.path,
            outlook:
              isBeyond(dialer.path, how.had) || known.pathHistory.hasFailed(dialer.path, clock.now())
                ? 'unlikely'
                : dialer.reachability?.(reach),
            run: async (signal: AbortSignal) => {
              const session = await connector.dial(known, reach, dialer, signal, how.role)
              known.pathHistory.arrived(dialer.path)
              if (!signal.aborted) outran(known, dialer.path, runners, clock.now())
              return session
            },
          }))
        return await race(runners, clock, limit.signal)
      })
    } catch (cause) {
      if (cause instanceof RaceLost) for (const { path } of cause.failures) known.pathHistory.failed(path, clock.now())
      const tried =
        cause instanceof RaceLost
          ? cause.failures.map(({ path, error }) => `${path}: ${explain(error)}`)
          : [explain(cause)]
      throw new MeshError(
        'NO_PATH',
        { node: known.node, tried },
        { cause: cause instanceof RaceLost ? cause.cause : cause },
      )
    } finally {
      known.dials -= 1
      if (known.dials === 0) known.proposal = undefined
    }
  }
}

interface How {
  queue: PQueue
  ms: number
  until: AbortSignal
  role?: CarrierRole
  /** The path that was good for it a moment ago: it does not wait for better ones. */
  had?: PathKind | undefined
}

/** The next race need not wait for those that this path has outrun. */
function outran(
  { pathHistory }: PeerState,
  path: PathKind,
  field: ReadonlyArray<{ path: PathKind }>,
  now: number,
): void {
  for (const better of field) if (rankOf(better.path) < rankOf(path)) pathHistory.failed(better.path, now)
}

function isBeyond(path: PathKind, had: PathKind | undefined): boolean {
  return had !== undefined && rankOf(path) < rankOf(had)
}

/** Nobody waits for a punch: it is for later, when there is a session to improve. */
export function isQuick({ path }: Dialer): boolean {
  return path !== 'punched'
}
