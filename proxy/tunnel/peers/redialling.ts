import PQueue from 'p-queue'
import { MeshError } from '../../../src/core/errors.ts'
import { Backoff } from '../../../src/core/kit/backoff.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'
import type { Dialer } from '../../paths/contract.ts'
import { isQuick, type Dialling } from './dialling.ts'
import { PeerRecords, type PeerState } from './peer-state.ts'

export interface RediallingOptions {
  dialling: Dialling
  dialers: readonly Dialer[]
  clock: Clock
  random: () => number
  /** First dials at the same time; there may be four times as many of these. */
  dials: number
  closing: AbortSignal
}

/** What redialling keeps of a peer. */
interface RedialRecord {
  underWay: number
  /** When the next may begin. */
  dueAt: number
  readonly backoff: Backoff
  /** Ends those under way. */
  stop: AbortController
}

/**
 * Of one redial: a SYN that was swallowed is sent again after 1 s and then 3 s, but the path may be back at any moment, so a
 * new one begins while others hang; ever more slowly, as it may be a relay that all its nodes come back to.
 */
const REDIAL_MS = 2_500
const MOST_UNDER_WAY = 5
const SPACED_MS = { first: 250, most: 750 }
const BACKOFF = { firstMs: 50, limitMs: 250 }

/** Dials again and again for sessions whose streams wait, until one carrier is surely alive. */
export class Redialling {
  readonly #options: RediallingOptions
  readonly #queue: PQueue
  readonly #records: PeerRecords<RedialRecord>

  constructor(options: RediallingOptions) {
    this.#options = options
    this.#queue = new PQueue({ concurrency: options.dials * 4 })
    this.#records = new PeerRecords(() => ({
      underWay: 0,
      dueAt: 0,
      backoff: new Backoff({ ...BACKOFF, random: options.random }),
      stop: new AbortController(),
    }))
  }

  /** One more try, when one is due; over every path, since any of them may come back first. */
  next(peer: PeerState): void {
    const { clock, dialers, closing, dialling } = this.#options
    const record = this.#records.of(peer)
    const now = clock.now()
    if (record.underWay >= MOST_UNDER_WAY || now < record.dueAt || closing.aborted) return
    if (dialling.reachOf(peer) === undefined) return
    record.dueAt = now + Math.max(spacingMs(record.underWay), record.backoff.nextMs())
    record.underWay += 1
    const until = AbortSignal.any([closing, record.stop.signal])
    const had = peer.session?.path
    dialling
      .race(peer, { dialers: dialers.filter(isQuick), queue: this.#queue, ms: REDIAL_MS, until, had, role: 'rescue' })
      .catch(ignore) // the next is due soon
      .finally(() => {
        record.underWay -= 1
      })
  }

  /** One more try now, as there is a path that was not there before. */
  soon(peer: PeerState): void {
    const record = this.#records.of(peer)
    record.backoff.reset()
    record.dueAt = 0
    this.next(peer)
  }

  /** The session is safe again: what is still being dialled for it may stop. */
  stop(peer: PeerState): void {
    const record = this.#records.of(peer)
    record.backoff.reset()
    if (record.underWay > 0) this.#abort(peer, record, 'another dial was faster')
  }

  /** The network has changed: dials that hang do so in one that is gone. */
  networkChanged(peer: PeerState): void {
    const record = this.#records.of(peer)
    record.backoff.reset()
    record.dueAt = 0
    this.#abort(peer, record, 'the network has changed')
  }

  #abort({ node }: PeerState, record: RedialRecord, reason: string): void {
    record.stop.abort(new MeshError('NO_PATH', { node, reason }))
    record.stop = new AbortController()
  }
}

function spacingMs(underWay: number): number {
  return underWay === 0 ? 0 : Math.min(SPACED_MS.most, SPACED_MS.first * 2 ** (underWay - 1))
}
