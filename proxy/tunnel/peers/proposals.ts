import { randomBytes } from 'node:crypto'
import type { NodeId } from '../../../src/core/model/ids.ts'
import { PeerRecords, type PeerState } from './peer-state.ts'

interface Proposal {
  /** What our dials propose while there is no session; two dials propose the same. */
  session: string | undefined
  /** Odd on one side and even on the other, so that both sides' numbers differ. */
  carrier: number
  /** Until then our dials wait for the peer's HELLO. */
  waitUntil: number
}

/** After a HELLO that was not answered, the next ones are waited for: a flow that was opened before the answer is lost with it. */
const WAIT_MS = 60_000

/** What our dials propose to each peer in HELLO. */
export class Proposals {
  readonly #records: PeerRecords<Proposal>
  readonly #now: () => number

  constructor({ self, now }: { self: NodeId; now: () => number }) {
    this.#now = now
    this.#records = new PeerRecords(({ node }) => ({
      session: undefined,
      carrier: self < node ? 1 : 0,
      waitUntil: 0,
    }))
  }

  /** For one dial: the session to join or to begin, and the number of the carrier. `isRescue`: streams wait for it. */
  next(peer: PeerState, { isRescue = false } = {}): { session: string; carrier: number } {
    const record = this.#records.of(peer)
    record.session ??= randomBytes(16).toString('hex')
    record.carrier += 2
    const atRisk = isRescue ? peer.sessions().find((session) => session.isAtRisk)?.identity.key.id : undefined
    return { session: atRisk ?? sessionToJoin(peer) ?? record.session, carrier: record.carrier }
  }

  /** What we have proposed and the peer has not answered, if anything. */
  pending(peer: PeerState): string | undefined {
    const { session } = peer
    if (session?.identity.isPresumed === true && !session.hasEnded) return session.identity.key.id
    return this.#records.of(peer).session
  }

  /** No dial is under way: the next one proposes another session. */
  withdraw(peer: PeerState): void {
    this.#records.of(peer).session = undefined
  }

  wentUnanswered(peer: PeerState): void {
    this.#records.of(peer).waitUntil = this.#now() + WAIT_MS
  }

  /** Whether a dial may use the session it proposes before the answer has come: nothing else can be meant. */
  mayPresume(peer: PeerState): boolean {
    return peer.sessions().length === 0 && this.#now() >= this.#records.of(peer).waitUntil
  }
}

/** The session held with the peer, unless that only finishes its flows. */
function sessionToJoin({ session }: PeerState): string | undefined {
  if (session === undefined || session.hasEnded || (session.isLeaving && !session.isAtRisk)) return undefined
  return session.identity.key.id
}
