import type { ServiceId } from '../model/ids.ts'

/** What the table holds of one key beside its entries. */
export interface KeyState {
  isKnown: boolean
  /** Questions on their way. */
  asking: number
  services: Set<ServiceId>
  /** Services that went while the question was on its way, by the number of that change: an older answer must not bring them back. */
  gone: Map<ServiceId, number>
  /** When the last service went, or the answer held none. */
  emptySince: number
  /** Wall time: it outlives restarts. */
  usedAt: number
}

/** How long "there is no such service" is believed. Smaller: each typing error asks the cluster; larger: a new service is late. */
export const EMPTY_MS = 5_000

/** One question less on its way. */
export function settle(state: KeyState): void {
  state.asking = Math.max(0, state.asking - 1)
  if (state.asking === 0) state.gone.clear()
}

export function newKey(usedAt: number): KeyState {
  const never = Number.NEGATIVE_INFINITY
  return { isKnown: false, asking: 0, services: new Set(), gone: new Map(), emptySince: never, usedAt }
}
