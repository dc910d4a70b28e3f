import { isMeshError, MeshError } from '../../../src/core/errors.ts'
import { Backoff } from '../../../src/core/kit/backoff.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { allows, likes, type PathRule } from '../../../src/core/model/path-rule.ts'
import type { Dialer } from '../../paths/contract.ts'
import { isQuick, type Dialling } from './dialling.ts'
import type { PeerState } from './peer-state.ts'
import type { TunnelSession } from '../session/session.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'

/** One rule's carrier to one node. */
interface Aside {
  dial: Promise<TunnelSession> | undefined
  readonly backoff: Backoff
  restUntil: number
  failure: unknown
}

/** A path that a rule asks for and that does not come is dialled for each flow, but not more often than this. */
const MUST = { firstMs: 100, limitMs: 1_000 }
/** One that it would only like: the flows go on without it. */
const LIKES = { firstMs: 1_000, limitMs: 60_000 }

/**
 * Carriers on the paths that rules ask for, where their session has none: dialled once for all who ask.
 *
 *     a rule's flow ─▶ the session has a path it allows ─▶ that one; where it would like another, that is dialled meanwhile
 *                      else ─▶ dial the paths it allows ─▶ the carrier joins the session, aside from its others
 */
export class PinnedCarriers {
  readonly #dialling: Dialling
  readonly #dialers: readonly Dialer[]
  readonly #clock: Clock
  readonly #random: () => number
  readonly #asides = new WeakMap<PeerState, Map<string, Aside>>()

  constructor(options: { dialling: Dialling; dialers: readonly Dialer[]; clock: Clock; random: () => number }) {
    this.#dialling = options.dialling
    this.#dialers = options.dialers
    this.#clock = options.clock
    this.#random = options.random
  }

  /** @throws MeshError PATH_FORBIDDEN when no path came that the rule allows */
  async want(known: PeerState, rule: PathRule): Promise<TunnelSession> {
    const refuse = (reason: string, cause?: unknown) => {
      const tried = isMeshError(cause, 'NO_PATH') ? cause.details['tried'] : undefined
      return new MeshError('PATH_FORBIDDEN', { node: known.node, paths: rule.text, reason, tried })
    }
    const dialers = this.#dialers.filter(({ path }) => allows(rule, path))
    if (dialers.length === 0) throw refuse('no path is left')
    const aside = this.#aside(known, `must ${rule.text}`, MUST)
    if (aside.dial === undefined && this.#clock.now() < aside.restUntil)
      throw refuse('it was tried a moment ago', aside.failure)
    // nobody waits for a punch, unless there is nothing else to wait for
    const quick = allows(rule, 'relayed') ? dialers.filter(isQuick) : dialers
    return await this.#dial(known, aside, quick).catch((error: unknown) => {
      throw refuse('none of its paths came', error)
    })
  }

  /** For the flows that come later. */
  wish(known: PeerState, rule: PathRule): void {
    const aside = this.#aside(known, `likes ${rule.text}`, LIKES)
    if (aside.dial !== undefined || this.#clock.now() < aside.restUntil) return
    const dialers = this.#dialers.filter(({ path }) => allows(rule, path) && likes(rule, path))
    this.#dial(known, aside, dialers).catch(ignore) // tried again later
  }

  #dial(known: PeerState, aside: Aside, dialers: readonly Dialer[]): Promise<TunnelSession> {
    aside.dial ??= this.#dialling
      .dial(known, dialers, 'aside')
      .then(
        (session) => {
          aside.backoff.reset()
          return session
        },
        (error: unknown) => {
          aside.failure = error
          aside.restUntil = this.#clock.now() + aside.backoff.nextMs()
          throw error
        },
      )
      .finally(() => {
        aside.dial = undefined
      })
    return aside.dial
  }

  #aside(known: PeerState, key: string, rests: { firstMs: number; limitMs: number }): Aside {
    const all = this.#asides.get(known) ?? new Map<string, Aside>()
    this.#asides.set(known, all)
    const aside = all.get(key) ?? newAside(new Backoff({ ...rests, random: this.#random }))
    all.set(key, aside)
    return aside
  }
}

function newAside(backoff: Backoff): Aside {
  return { dial: undefined, backoff, restUntil: 0, failure: undefined }
}
