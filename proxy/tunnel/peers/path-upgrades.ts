import type { Clock } from '../../../src/core/kit/clock.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { Dialer } from '../../paths/contract.ts'
import { rankOf } from '../session/placement.ts'
import type { TunnelSession } from '../session/session.ts'
import type { Dialling } from './dialling.ts'
import { PeerRecords, type PeerState } from './peer-state.ts'

/** When a better path is tried while traffic flows on a worse one; the last repeats. Sooner: dials in vain; later: slow flows. */
const UPGRADE_MS = [1_000, 5_000, 15_000, 60_000, 300_000]
/** After a dial for one more carrier, or a better one, has failed. */
const ADD_AGAIN_MS = 5_000
/** After a change of the network better paths are tried within this: nodes that moved together must not dial together. */
const UPGRADE_SPREAD_MS = 1_000
/**
 * Between two additional carriers for one session, of those that are punched or relayed, and of those that just dial. Longer: bulk
 * and small streams share what they should not for as long.
 */
const ADD_MS = 1_000
const ADD_DIRECT_MS = 250
/** Another relay must be nearer for this long, or the session follows every change; and then it stays there for a while. */
const NEARER_MS = 10_000
const SETTLED_MS = 60_000

export interface PathUpgradesOptions {
  dialers: readonly Dialer[]
  dialling: Dialling
  /** The relay by which a node is nearer than by the one in use. */
  nearer: ((node: NodeId, relay: string) => string | undefined) | undefined
  /** False for a path that is only used where there is no other: never taken because it is faster. */
  prefers: ((path: PathKind) => boolean) | undefined
  clock: Clock
  random: () => number
  log: Log
}

/** What upgrades keep of a peer. */
interface UpgradeRecord {
  /** A dial for something better is under way. */
  isUpgrading: boolean
  /** When one more carrier may be dialled. */
  addAt: number
  /** When a better path is tried next, and how many times it was. */
  upgradeAt: number
  attempts: number
  /** A relay that is nearer than the one in use, and since when. */
  nearerRelay: { relay: string; since: number } | undefined
  /** Until then the session stays at its relay. */
  settledUntil: number
}

/**
 * What a session that works may have better; one thing at a time, made before the old is left.
 *
 *     fewer carriers than wanted ─▶ one more, on the path in use
 *     a worse kind of path is twice as fast (path-history.ts) ─▶ there, instead
 *     another relay is nearer for ten seconds ─▶ through that one, instead
 *     a better kind of path ─▶ tried after 1, 5, 15, 60, 300 s
 */
export class PathUpgrades {
  readonly #options: PathUpgradesOptions
  readonly #records = new PeerRecords<UpgradeRecord>(() => ({
    isUpgrading: false,
    addAt: 0,
    upgradeAt: Number.POSITIVE_INFINITY,
    attempts: 0,
    nearerRelay: undefined,
    settledUntil: 0,
  }))

  constructor(options: PathUpgradesOptions) {
    this.#options = options
  }

  tick(peer: PeerState, session: TunnelSession, now: number): void {
    const record = this.#records.of(peer)
    if (record.isUpgrading) return
    const reach = this.#options.dialling.reachOf(peer)
    if (reach === undefined) return
    if (session.wantsCarrier && now >= record.addAt) return this.#addCarrier(peer, session, now)
    if (
      session.identity.isDialler &&
      (this.#takeFasterPath(peer, session, now) || this.#takeNearerRelay(peer, session, now))
    )
      return
    if (now >= record.upgradeAt) this.#takeBetterPath(peer, session, { reach, now })
  }

  /** The session is on another path than before: better ones are tried from the first interval on. */
  sessionMoved(peer: PeerState): void {
    this.#plan(peer, 0)
  }

  /** From another network everything is different. */
  networkChanged(peer: PeerState, now: number): void {
    peer.history.forget()
    const record = this.#records.of(peer)
    record.nearerRelay = undefined
    record.addAt = now
    record.attempts = 0
    if (peer.session !== undefined) record.upgradeAt = now + UPGRADE_SPREAD_MS * this.#options.random()
  }

  #plan(peer: PeerState, attempts: number): void {
    const record = this.#records.of(peer)
    record.attempts = attempts
    const ms = UPGRADE_MS[Math.min(attempts, UPGRADE_MS.length - 1)]!
    record.upgradeAt = this.#options.clock.now() + ms * (0.75 + this.#options.random() / 2)
  }

  #addCarrier(peer: PeerState, { path }: TunnelSession, now: number): void {
    this.#records.of(peer).addAt = now + (path === 'direct' ? ADD_DIRECT_MS : ADD_MS)
    this.#dial(peer, (dialer) => dialer.path === path)
  }

  /** A path of a worse kind that is twice as fast; back only after a while. */
  #takeFasterPath(peer: PeerState, session: TunnelSession, now: number): boolean {
    const { path, isCalm } = session
    const rttMs = session.carriers.rttMs(path)
    const faster = peer.history.fasterThan(path, { rttMs, isCalm }, now)
    if (faster === undefined || this.#options.prefers?.(faster) === false) return false
    this.#options.log.info('a worse kind of path is faster', { peer: peer.node, path: faster, before: path, rttMs })
    this.#dial(peer, (dialer) => dialer.path === faster, { isInstead: true })
    return true
  }

  /** Through a relay that is nearer to both together. */
  #takeNearerRelay(peer: PeerState, session: TunnelSession, now: number): boolean {
    const record = this.#records.of(peer)
    const relay = session.carriers.best?.relay
    const nearer = relay === undefined ? undefined : this.#options.nearer?.(peer.node, relay)
    if (nearer === undefined) {
      record.nearerRelay = undefined
      return false
    }
    if (record.nearerRelay?.relay !== nearer) record.nearerRelay = { relay: nearer, since: now }
    if (now < record.settledUntil || now - record.nearerRelay.since < NEARER_MS) return false
    record.settledUntil = now + SETTLED_MS
    this.#options.log.info('another relay is nearer', { peer: peer.node, address: nearer, before: relay })
    const through = (reach: NodeReach) => ({ ...reach, relays: [nearer] })
    this.#dial(peer, ({ path }) => path === 'relayed', { isInstead: true, through })
    return true
  }

  #takeBetterPath(peer: PeerState, session: TunnelSession, at: { reach: NodeReach; now: number }): void {
    this.#plan(peer, this.#records.of(peer).attempts + 1)
    const isBetter = (dialer: Dialer) =>
      rankOf(dialer.path) < rankOf(session.path) &&
      (session.identity.isDialler || dialer.path === 'direct') && // where a dial needs both sides, one of them begins it
      !peer.history.isPenalised(dialer.path, at.now) &&
      dialer.suits(at.reach)
    if (this.#options.dialers.some(isBetter)) this.#dial(peer, isBetter)
  }

  #dial(peer: PeerState, isWanted: (dialer: Dialer) => boolean, { isInstead = false, through }: How = {}): void {
    const { dialling, clock, log } = this.#options
    const wanted = this.#options.dialers.filter(isWanted)
    const dialers = through === undefined ? wanted : wanted.map((dialer) => narrowed(dialer, through))
    const record = this.#records.of(peer)
    record.isUpgrading = true
    dialling
      .race(peer, { dialers, role: isInstead ? 'instead' : 'more' })
      .catch((error: unknown) => {
        record.addAt = clock.now() + ADD_AGAIN_MS
        log.debug('no better path yet', { peer: peer.node, error })
      })
      .finally(() => {
        record.isUpgrading = false
      })
  }
}

interface How {
  /** The session leaves its other carriers for the one that comes. */
  isInstead?: boolean
  /** Narrows down the ways to the node. */
  through?: (reach: NodeReach) => NodeReach
}

function narrowed(dialer: Dialer, through: (reach: NodeReach) => NodeReach): Dialer {
  return {
    path: dialer.path,
    suits: (node) => dialer.suits(through(node)),
    dial: (node, signal) => dialer.dial(through(node), signal),
  }
}
