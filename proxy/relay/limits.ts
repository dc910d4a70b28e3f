import type { ConnectionLimits } from './quotas.ts'

export interface RelayLimits extends ConnectionLimits {
  /** A connection that its listener has not taken after this long is refused. */
  takeMs: number
  /** What one node may send, over all its connections. */
  nodeBytesPerSecond: number
  /** How often one node may begin to listen, dial or measure; after a rest several at once. */
  nodeRequestsPerSecond: number
}

/** Smaller starves busy nodes; larger lets one node take what all share. */
export const RELAY_LIMITS: RelayLimits = {
  total: 8_192,
  dialled: 256,
  accepted: 1_024,
  pair: 32,
  takeMs: 5_000,
  nodeBytesPerSecond: 250_000_000,
  nodeRequestsPerSecond: 50,
}

/** A relay that goes away asks its listeners to return over a time that grows with their number, within these bounds. */
const BACK_MS_EACH = 5
const BACK_MS_MOST = 5_000
const BACK_MS_LEAST = 250

/** When one of this many listeners is asked to return. */
export function backInMs(listeners: number, random = Math.random): number {
  return Math.round(BACK_MS_LEAST + random() * Math.min(BACK_MS_MOST, BACK_MS_EACH * listeners))
}
