import type { RelayLimits } from '../../proxy/relay/limits.ts'
import type { RelayLimitsConfig } from '../config/schema.ts'

/** The configured limits in the units that the relay counts. */
export function relayLimits(config: RelayLimitsConfig): Partial<RelayLimits> {
  const { connections, connectionsPerNode, mbitPerSecondPerNode } = config
  return {
    total: connections,
    dialled: connectionsPerNode,
    accepted: 4 * connectionsPerNode, // larger than for dialling, so that no single node can keep all others from reaching one
    nodeBytesPerSecond: (mbitPerSecondPerNode * 1_000_000) / 8,
  }
}
