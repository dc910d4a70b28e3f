import { MeshError } from '../../../src/core/errors.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { TunnelSession } from '../session/session.ts'
import type { Hello } from '../wire/hello.ts'
import { isAnotherProcess } from './agreement.ts'
import type { TunnelMeters } from './meters.ts'
import { PeerRecords, type PeerState } from './peer-state.ts'

/*
 * Two processes with copies of one state directory have one identity. Each would end the session of the other, for ever. So a
 * process that is heard of beside a session is believed to be the successor of a dead one only if the session does not answer:
 *
 *     HELLO of another incarnation ─▶ the session is asked ─▶ answers: a duplicate, refused and named
 *                                                          └▶ silent: the session is cut, the new process is greeted
 *
 * Which of the two may stay is the cluster's choice: the other one gives way (Peers.identityTaken), and ends its sessions.
 */

/** An answer may take this long, or four round trips. Smaller: a busy process is taken for dead; larger: flows wait for a restarted one. */
const ANSWER_MS = 1_000
/** How often one peer is named in the log, and how long it is listed after it was last heard of. */
const REPORT_MS = 60_000

interface DuplicateRecord {
  waiting: ((isAlive: boolean) => void)[]
  seenAt: number
  reportedAt: number
}

export interface DuplicatesOptions {
  clock: Clock
  log: Log
  meters: TunnelMeters
}

export class Duplicates {
  readonly #options: DuplicatesOptions
  readonly #records = new PeerRecords<DuplicateRecord>(() => ({
    waiting: [],
    seenAt: Number.NEGATIVE_INFINITY,
    reportedAt: Number.NEGATIVE_INFINITY,
  }))

  constructor(options: DuplicatesOptions) {
    this.#options = options
  }

  /** Whether another process of the node was heard of a moment ago, beside a session that answers. */
  has(peer: PeerState): boolean {
    return this.#options.clock.now() - this.#records.of(peer).seenAt < REPORT_MS
  }

  /** Asks the session, if a HELLO is of another process. @throws MeshError PEER_REFUSED when it answers */
  async refuse(peer: PeerState, theirs: Hello): Promise<void> {
    if (isAnotherProcess(peer.keys(), theirs) && (await this.#isDuplicate(peer))) throw refused(peer.node)
  }

  /**
   * The same for the answer to our own dial, which cannot wait: it is refused while the session seems well.
   * @throws MeshError PEER_REFUSED
   */
  refuseAnswer(peer: PeerState, theirs: Hello): void {
    const { session } = peer
    if (session === undefined || !isAnotherProcess(peer.keys(), theirs) || !seemsWell(session)) return
    void this.#isDuplicate(peer)
    throw refused(peer.node)
  }

  /** A session has answered. */
  answered(peer: PeerState, session: TunnelSession): void {
    if (peer.session === session) this.#settle(peer, true)
  }

  async #isDuplicate(peer: PeerState): Promise<boolean> {
    const { clock } = this.#options
    const { session } = peer
    if (session === undefined || session.carriers.isEmpty) return false
    const { promise, resolve } = Promise.withResolvers<boolean>()
    this.#records.of(peer).waiting.push(resolve)
    session.networkChanged(() => true) // pings every carrier
    const waitMs = Math.max(ANSWER_MS, 4 * (session.rttMs ?? 0))
    void clock.sleep(waitMs).then(() => resolve(false))
    const isAlive = await promise
    if (isAlive) this.#heard(peer)
    return isAlive
  }

  #settle(peer: PeerState, isAlive: boolean): void {
    for (const resolve of this.#records.of(peer).waiting.splice(0)) resolve(isAlive)
  }

  #heard(peer: PeerState): void {
    const { clock, log, meters } = this.#options
    const record = this.#records.of(peer)
    record.seenAt = clock.now()
    meters.duplicate()
    if (record.seenAt - record.reportedAt < REPORT_MS) return
    record.reportedAt = record.seenAt
    log.warn('another process uses the identity of a node', { peer: peer.node })
  }
}

function seemsWell(session: TunnelSession): boolean {
  return !session.hasEnded && !session.isAtRisk && !session.carriers.isEmpty
}

function refused(node: NodeId): MeshError {
  return new MeshError('PEER_REFUSED', {
    node,
    reason: 'another process with its identity has a session here, and answers',
  })
}
