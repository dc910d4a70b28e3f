/**
 * Which session a new carrier belongs to, so that two nodes never hold two. The dialler proposes, the accepting side answers,
 * and the answer stands.
 *
 *     A (smaller id)                    B
 *     proposes a ──────HELLO a────▶  dialling too, but A's id is smaller: answers a
 *     dialling too, and its own  ◀──HELLO b────── proposes b
 *     id is smaller: answers a   ──HELLO a────▶  takes a
 *                both carriers are in session a
 */
export interface SessionKey {
  id: string
  /** Of the peer, when the session began. */
  incarnation: string
}

export interface Agreement {
  id: string
  /** The session held until now is dead: its peer has restarted or forgotten it. */
  cutsCurrent: boolean
}

/** The accepting side's answer to a proposal. `pending` is our own proposal while we dial the same peer. */
export function answerProposal(
  mine: { isFirst: boolean; current: SessionKey | undefined; pending: string | undefined },
  theirs: { session: string; incarnation: string },
): Agreement {
  if (mine.current !== undefined && mine.current.incarnation === theirs.incarnation) {
    return { id: mine.current.id, cutsCurrent: false }
  }
  const id = mine.isFirst && mine.pending !== undefined ? mine.pending : theirs.session
  return { id, cutsCurrent: mine.current !== undefined }
}

/** The dialler's reading of the answer. */
export function readAnswer(
  current: SessionKey | undefined,
  answer: { session: string; incarnation: string },
): Agreement {
  if (current === undefined) return { id: answer.session, cutsCurrent: false }
  const isSame = current.id === answer.session && current.incarnation === answer.incarnation
  return { id: answer.session, cutsCurrent: !isSame }
}
