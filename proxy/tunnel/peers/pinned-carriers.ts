import { isMeshError, MeshError } from '../../../src/core/errors.ts'
import { Backoff } from '../../../src/core/kit/backoff.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'
import { allows, likes, type PathRule } from '../../../src/core/model/path-rule.ts'
import type { Dialer } from '../../paths/contract.ts'
import type { TunnelSession } from '../session/session.ts'
import { isQuick, type Dialling } from './dialling.ts'
import { PeerRecords, type PeerState } from './peer-state.ts'

export interface PinnedCarriersOptions {
  dialling: Dialling
  dialers: readonly Dialer[]
  clock: Clock
  random: () => number
}

/** One rule's carrier to one node. */
interface PinnedCarrier {
  dial: Promise<TunnelSession> | undefined
  readonly backoff: Backoff
  restUntil: number
  failure: unknown
}

/** A path that a rule requires and that does not come is dialled for each flow, but not more often than this. */
const REQUIRED = { firstMs: 100, limitMs: 1_000 }
/** One that a rule only likes: the flows go on without it. */
const LIKED = { firstMs: 1_000, limitMs: 60_000 }

/**
 * Carriers on the paths that rules ask for, where their session has none: dialled once for all who ask.
 *
 *     a rule's flow ─▶ the session has a path it allows ─▶ that one; where it would like another, that is dialled meanwhile
 *                      else ─▶ dial the paths it allows ─▶ the carrier joins the session, pinned to such streams
 */
export class PinnedCarriers {
  readonly #options: PinnedCarriersOptions
  /** By rule. */
  readonly #records = new PeerRecords(() => new Map<string, PinnedCarrier>())

  constructor(options: PinnedCarriersOptions) {
    this.#options = options
  }

  /** @throws MeshError PATH_FORBIDDEN when no path came that the rule allows */
  async require(peer: PeerState, rule: PathRule): Promise<TunnelSession> {
    const refuse = (reason: string, cause?: unknown) => {
      const tried = isMeshError(cause, 'NO_PATH') ? cause.details['tried'] : undefined
      return new MeshError('PATH_FORBIDDEN', { node: peer.node, paths: rule.text, reason, tried })
    }
    const dialers = this.#options.dialers.filter(({ path }) => allows(rule, path))
    if (dialers.length === 0) throw refuse('no path is left')
    const pinned = this.#carrier(peer, `must ${rule.text}`, REQUIRED)
    if (pinned.dial === undefined && this.#options.clock.now() < pinned.restUntil)
      throw refuse('it was tried a moment ago', pinned.failure)
    // nobody waits for a punch, unless there is nothing else to wait for
    const quick = allows(rule, 'relayed') ? dialers.filter(isQuick) : dialers
    return await this.#dial(peer, pinned, quick).catch((error: unknown) => {
      throw refuse('none of its paths came', error)
    })
  }

  /** Dials the path that a rule would like, for flows that come later. */
  prepare(peer: PeerState, rule: PathRule): void {
    const pinned = this.#carrier(peer, `likes ${rule.text}`, LIKED)
    if (pinned.dial !== undefined || this.#options.clock.now() < pinned.restUntil) return
    const dialers = this.#options.dialers.filter(({ path }) => allows(rule, path) && likes(rule, path))
    this.#dial(peer, pinned, dialers).catch(ignore) // tried again later
  }

  #dial(peer: PeerState, pinned: PinnedCarrier, dialers: readonly Dialer[]): Promise<TunnelSession> {
    pinned.dial ??= this.#options.dialling
      .race(peer, { dialers, role: 'pinned' })
      .then(
        (session) => {
          pinned.backoff.reset()
          return session
        },
        (error: unknown) => {
          pinned.failure = error
          pinned.restUntil = this.#options.clock.now() + pinned.backoff.nextMs()
          throw error
        },
      )
      .finally(() => {
        pinned.dial = undefined
      })
    return pinned.dial
  }

  #carrier(peer: PeerState, key: string, rests: { firstMs: number; limitMs: number }): PinnedCarrier {
    const all = this.#records.of(peer)
    let pinned = all.get(key)
    if (pinned === undefined) {
      const backoff = new Backoff({ ...rests, random: this.#options.random })
      pinned = { dial: undefined, backoff, restUntil: 0, failure: undefined }
      all.set(key, pinned)
    }
    return pinned
  }
}
