import type { RelayLimits } from '../../proxy/relay/limits.ts'
import type { RelayLimitsConfig } from '../config.ts'

/** What people configure, as the relay counts it. */
export function relayLimits(config: RelayLimitsConfig): Partial<RelayLimits> {
  const { connections, connectionsPerNode, mbitPerSecondPerNode } = config
  return {
    total: connections,
    dialled: connectionsPerNode,
    accepted: 4 * connectionsPerNode, // more than one dials: no single node can keep all others away
    nodeBytesPerSecond: (mbitPerSecondPerNode * 1_000_000) / 8,
  }
}
