import type { SessionKey } from '../session/identity.ts'
import { FEATURE } from '../wire/hello.ts'

/*
 * Which session a new carrier belongs to, so that two nodes never hold two. The dialler proposes, the accepting side answers,
 * and the answer stands.
 *
 *     A (smaller id)                    B
 *     proposes a ──────HELLO a────▶  dialling too, but A's id is smaller: answers a
 *     dialling too, and its own  ◀──HELLO b────── proposes b
 *     id is smaller: answers a   ──HELLO a────▶  takes a
 *                both carriers are in session a
 *
 * A node that is restarted for an upgrade runs twice for a while: the old process sends DRAIN and finishes its flows in the
 * old session (leaving); the new one, another incarnation, begins a session of its own. It does not matter which of the two
 * is heard first, because the new one sets `beside` in its HELLO. A process that died without a word leaves a session
 * that is cut as soon as its successor is heard.
 */

/** The sessions held with one node. */
export interface HeldKeys {
  current: SessionKey | undefined
  /** Of processes that sent DRAIN; `current` may be among them until it has a successor. */
  leaving: readonly SessionKey[]
}

/** The fields of a HELLO that decide. */
interface Greeting {
  session: string
  incarnation: string
  features?: number
}

export interface Agreement {
  id: string
  /** The session held until now is dead: its peer has restarted or forgotten it. */
  cutsCurrent: boolean
}

/** The accepting side's answer to a proposal. `pending` is our own proposal while we dial the same peer. */
export function answerProposal(
  mine: HeldKeys & { isFirst: boolean; pending: string | undefined },
  theirs: Greeting,
): Agreement {
  const { current, leaving, isFirst, pending } = mine
  const held = [current, ...leaving].find((key) => key?.incarnation === theirs.incarnation)
  if (held !== undefined) return { id: held.id, cutsCurrent: false }
  const id = isFirst && pending !== undefined ? pending : theirs.session
  return { id, cutsCurrent: !isBeside(theirs) && isCut({ current, leaving }) }
}

/** How the dialler reads the answer. */
export function readAnswer(held: HeldKeys, answer: Greeting): Agreement {
  const isSame = (key: SessionKey | undefined) => key?.id === answer.session && key.incarnation === answer.incarnation
  const isHeld = isSame(held.current) || held.leaving.some(isSame)
  return { id: answer.session, cutsCurrent: !isHeld && !isBeside(answer) && isCut(held) }
}

/** Whether it is neither the process that the session is with, nor one that runs beside it in good order. */
export function isAnotherProcess(held: HeldKeys, theirs: Greeting): boolean {
  const isKnown = [held.current, ...held.leaving].some((key) => key?.incarnation === theirs.incarnation)
  return !isKnown && !isBeside(theirs) && isCut(held)
}

/** Two processes of the node run: the session of the other one goes on, and the older of the two sends DRAIN itself. */
function isBeside({ features = 0 }: Greeting): boolean {
  return (features & (FEATURE.beside | FEATURE.leaving)) !== 0
}

/** Whether it has a successor, and takes carriers only for the sessions it has. */
export function isLeaving({ features = 0 }: Greeting): boolean {
  return (features & FEATURE.leaving) !== 0
}

function isCut({ current, leaving }: HeldKeys): boolean {
  return (
    current !== undefined &&
    !leaving.some(({ id, incarnation }) => id === current.id && incarnation === current.incarnation)
  )
}
