/**
 * Which session a new carrier belongs to, so that two nodes never hold two. The dialler proposes, the accepting side answers,
 * and the answer stands.
 *
 *     A (smaller id)                    B
 *     proposes a ──────HELLO a────▶  dialling too, but A's id is smaller: answers a
 *     dialling too, and its own  ◀──HELLO b────── proposes b
 *     id is smaller: answers a   ──HELLO a────▶  takes a
 *                both carriers are in session a
 *
 * A node that is restarted for an upgrade runs twice for a while: the old process has said DRAIN and finishes its flows in the
 * old session (leaving), the new one, another incarnation, begins a session of its own. A process that is gone without a word
 * leaves a session that is cut as soon as its successor is heard.
 */
export interface SessionKey {
  id: string
  /** Of the peer, when the session began. */
  incarnation: string
}

/** The sessions held with one node. */
export interface HeldKeys {
  current: SessionKey | undefined
  /** Of processes that said DRAIN; `current` may be among them until it has a successor. */
  leaving: readonly SessionKey[]
}

export interface Agreement {
  id: string
  /** The session held until now is dead: its peer has restarted or forgotten it. */
  cutsCurrent: boolean
}

/** The accepting side's answer to a proposal. `pending` is our own proposal while we dial the same peer. */
export function answerProposal(
  mine: HeldKeys & { isFirst: boolean; pending: string | undefined },
  theirs: { session: string; incarnation: string },
): Agreement {
  const { current, leaving, isFirst, pending } = mine
  const held = [current, ...leaving].find((key) => key?.incarnation === theirs.incarnation)
  if (held !== undefined) return { id: held.id, cutsCurrent: false }
  const id = isFirst && pending !== undefined ? pending : theirs.session
  return { id, cutsCurrent: isCut({ current, leaving }) }
}

/** The dialler's reading of the answer. */
export function readAnswer(held: HeldKeys, answer: { session: string; incarnation: string }): Agreement {
  const isSame = (key: SessionKey | undefined) => key?.id === answer.session && key.incarnation === answer.incarnation
  const isHeld = isSame(held.current) || held.leaving.some(isSame)
  return { id: answer.session, cutsCurrent: !isHeld && isCut(held) }
}

function isCut({ current, leaving }: HeldKeys): boolean {
  return (
    current !== undefined &&
    !leaving.some(({ id, incarnation }) => id === current.id && incarnation === current.incarnation)
  )
}
