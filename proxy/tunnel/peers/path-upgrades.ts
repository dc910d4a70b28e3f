import type { Clock } from '../../../src/core/kit/clock.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import type { Dialer } from '../../paths/contract.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { Dialling } from './dialling.ts'
import type { PeerState } from './peer-state.ts'
import { rankOf } from '../session/placement.ts'
import type { TunnelSession } from '../session/session.ts'

/** When a better path is tried while traffic flows on a worse one; the last repeats. */
const CLIMB_MS = [1_000, 5_000, 15_000, 60_000, 300_000]
/** After a dial for one more carrier, or a better one, has failed. */
const GROW_AGAIN_MS = 5_000
/** After a change of the network better paths are tried within this: nodes that moved together shall not dial together. */
const CLIMB_AGAIN_MS = 1_000
/**
 * Between two carriers more for one session, of those that are punched or relayed, and of those that just dial. Longer: bulk and
 * small streams share what they should not for as long.
 */
const GROW_MS = 1_000
const GROW_DIRECT_MS = 250
/** Another relay must be nearer for so long, or the session follows every gust; and then it stays there for a while. */
const NEARER_MS = 10_000
const SETTLED_MS = 60_000

export interface PathUpgradesOptions {
  dialers: readonly Dialer[]
  dialling: Dialling
  reach: ((node: NodeId) => NodeReach | undefined) | undefined
  nearer: ((node: NodeId, relay: string) => string | undefined) | undefined
  /** False for a path that is only for want of another: never taken because it is faster. */
  prefers: ((path: PathKind) => boolean) | undefined
  clock: Clock
  random: () => number
  log: Log
}

/**
 * What a session that works may have better; one thing at a time, made before the old is left.
 *
 *     fewer carriers than wanted ─▶ one more, on the path in use
 *     a worse kind of path is twice as fast (steer.ts) ─▶ there, instead
 *     another relay is nearer for ten seconds ─▶ through that one, instead
 *     a better kind of path ─▶ tried after 1, 5, 15, 60, 300 s
 */
export class PathUpgrades {
  readonly #options: PathUpgradesOptions

  constructor(options: PathUpgradesOptions) {
    this.#options = options
  }

  look(known: PeerState, session: TunnelSession, now: number): void {
    if (known.isUpgrading) return
    known.reach = this.#options.reach?.(known.node) ?? known.reach // nodes move
    const { reach } = known
    if (reach === undefined) return
    if (session.isDialler && session.carriersInUse < session.carriersWanted && now >= known.addCarrierAt) {
      known.addCarrierAt = now + (session.path === 'direct' ? GROW_DIRECT_MS : GROW_MS)
      this.#try(known, (dialer) => dialer.path === session.path)
      return
    }
    if (session.isDialler && (this.#stepDown(known, session, now) || this.#comeNearer(known, session, now))) return
    if (now < known.upgradeAt) return
    this.plan(known, known.upgrades + 1)
    const isBetter = (dialer: Dialer) =>
      rankOf(dialer.path) < rankOf(session.path) &&
      (session.isDialler || dialer.path === 'direct') && // what needs both sides, one of them begins
      !known.pathHistory.isShunned(dialer.path, now) &&
      dialer.suits(reach)
    if (this.#options.dialers.some(isBetter)) this.#try(known, isBetter)
  }

  plan(known: PeerState, climbs: number): void {
    known.upgrades = climbs
    const ms = CLIMB_MS[Math.min(climbs, CLIMB_MS.length - 1)]!
    known.upgradeAt = this.#options.clock.now() + ms * (0.75 + this.#options.random() / 2)
  }

  /** From another network everything is different. */
  afresh(known: PeerState, now: number): void {
    known.pathHistory.forget()
    known.nearerRelay = undefined
    known.addCarrierAt = now
    known.upgrades = 0
    if (known.session !== undefined) known.upgradeAt = now + CLIMB_AGAIN_MS * this.#options.random()
  }

  /** To a path of a worse kind that is twice as fast; back only after a while. */
  #stepDown(known: PeerState, session: TunnelSession, now: number): boolean {
    const { path, pathRttMs: rttMs, isCalm } = session
    const faster = known.pathHistory.look(path, { rttMs, isCalm }, now)
    if (faster === undefined || this.#options.prefers?.(faster) === false) return false
    this.#options.log.info('a worse kind of path is faster', { peer: known.node, path: faster, before: path, rttMs })
    this.#try(known, (dialer) => dialer.path === faster, { isInstead: true })
    return true
  }

  /** Through a relay that is nearer to both together. */
  #comeNearer(known: PeerState, session: TunnelSession, now: number): boolean {
    const { relay } = session
    const nearer = relay === undefined ? undefined : this.#options.nearer?.(known.node, relay)
    if (nearer === undefined) {
      known.nearerRelay = undefined
      return false
    }
    if (known.nearerRelay?.relay !== nearer) known.nearerRelay = { relay: nearer, since: now }
    if (now < known.settledUntil || now - known.nearerRelay.since < NEARER_MS) return false
    known.settledUntil = now + SETTLED_MS
    this.#options.log.info('another relay is nearer', { peer: known.node, address: nearer, before: relay })
    const through = (reach: NodeReach) => ({ ...reach, relays: [nearer] })
    this.#try(known, ({ path }) => path === 'relayed', { isInstead: true, through })
    return true
  }

  #try(known: PeerState, isWanted: (dialer: Dialer) => boolean, { isInstead = false, through }: How = {}): void {
    const { dialers, dialling, clock, log } = this.#options
    const wanted = dialers
      .filter(isWanted)
      .map((dialer) => (through === undefined ? dialer : narrowed(dialer, through)))
    known.isUpgrading = true
    dialling
      .dial(known, wanted, isInstead ? 'instead' : 'more')
      .catch((error: unknown) => {
        known.addCarrierAt = clock.now() + GROW_AGAIN_MS
        log.debug('no better way yet', { peer: known.node, error })
      })
      .finally(() => {
        known.isUpgrading = false
      })
  }
}

interface How {
  /** The session leaves its other carriers for the one that comes. */
  isInstead?: boolean
  /** Not all of the ways to the node. */
  through?: (reach: NodeReach) => NodeReach
}

function narrowed(dialer: Dialer, through: (reach: NodeReach) => NodeReach): Dialer {
  return {
    path: dialer.path,
    suits: (node) => dialer.suits(through(node)),
    dial: (node, signal) => dialer.dial(through(node), signal),
  }
}
