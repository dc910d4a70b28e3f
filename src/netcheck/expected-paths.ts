import type { NatBehavior } from '../../proxy/paths/nat/nat-behavior.ts'
import { allows, type PathRule } from '../core/model/path-rule.ts'

/**
 * Kinds of networks, by what they let others do; mapping and filtering in the terms of RFC 4787:
 *
 *     public       can be dialled
 *     open         NAT with endpoint-independent mapping that lets other ports in (filtering at most address-dependent)
 *     restricted   NAT with endpoint-independent mapping, or a firewall, that lets only replies in: the usual home router
 *     symmetric    NAT whose mapping depends on the address, or on address and port
 *     enclosed     only HTTPS gets out, or only what an HTTP proxy carries
 */
export const NETWORKS = ['public', 'open', 'restricted', 'symmetric', 'enclosed'] as const
export type NetworkKind = (typeof NETWORKS)[number]
export type ExpectedPath = 'direct' | 'reverse' | 'punched' | 'relayed' | 'none'

export interface NetworkFacts extends NatBehavior {
  /** A port of the router leads to this node. */
  isMapped: boolean
  /** Without a NAT: whether strangers reach the port at which we listen; a firewall may let in that one only. */
  isPortOpen?: boolean
  /** Nothing gets out but what reaches the relay. */
  isEnclosed: boolean
}

/** `undefined` when nothing was observed yet. */
export function networkOf(facts: NetworkFacts): NetworkKind | undefined {
  const { mapping, filtering, isPortOpen, isMapped, isEnclosed } = facts
  if (isEnclosed) return 'enclosed'
  if (isMapped) return 'public'
  switch (mapping) {
    case 'unknown':
      return undefined
    case 'none':
      return (isPortOpen ?? filtering !== 'address-and-port-dependent') ? 'public' : 'restricted'
    case 'endpoint-independent':
      return filtering === 'endpoint-independent' || filtering === 'address-dependent' ? 'open' : 'restricted'
    case 'address-dependent':
    case 'address-and-port-dependent':
      return 'symmetric'
    default:
      return mapping satisfies never
  }
}

/** The best path for flows from one network to another. */
export function bestPath(own: NetworkKind, peer: NetworkKind): Exclude<ExpectedPath, 'none'> {
  if (own === 'enclosed' || peer === 'enclosed') return 'relayed'
  if (peer === 'public') return 'direct'
  if (own === 'public') return 'reverse'
  const symmetric = [own, peer].filter((kind) => kind === 'symmetric').length
  if (symmetric === 2) return 'relayed'
  return symmetric === 1 && (own === 'restricted' || peer === 'restricted') ? 'relayed' : 'punched'
}

/** What this node can expect with each kind of peer, without the paths that the operator forbids. */
export function expectedPaths(own: NetworkKind, rule: PathRule): Array<{ peer: NetworkKind; way: ExpectedPath }> {
  return NETWORKS.map((peer) => {
    const best = bestPath(own, peer)
    return { peer, way: allows(rule, best) ? best : allows(rule, 'relayed') ? 'relayed' : 'none' }
  })
}
