/** What an agent has carried, and carries now. */
export interface Carried {
  /** Flows that have begun, from here and from other nodes. */
  readonly begun: number
  /** Of them, those that are open. */
  readonly open: number
}

/** Whether no flow is open, and none has begun since the last call. */
export function watchRest(carried: () => Carried): () => boolean {
  let seen = carried().begun
  return () => {
    const { begun, open } = carried()
    const isQuiet = begun === seen
    seen = begun
    return isQuiet && open === 0
  }
}

/** Smaller: flows come more often while the process stands still. */
export const REST_MS = 10_000
/** Fewer leave so little behind that it is not worth a stop. */
const MANY = 1_000

/**
 * To be called every `REST_MS`. Once the agent is at rest it gives back what its start has left behind, and later what many flows have:
 * V8 by itself keeps that until it needs the room, which an agent at rest never does. For a tenth of a second nothing else runs.
 */
export function collectAtRest(carried: () => Carried, collect: () => Promise<void>): () => Promise<void> {
  const isAtRest = watchRest(carried)
  let dueFrom = 0
  return async () => {
    if (!isAtRest()) return
    const { begun } = carried()
    if (begun < dueFrom) return
    dueFrom = begun + MANY
    await collect()
  }
}
