import type { NatClass } from '../../proxy/paths/nat/nat-behavior.ts'
import { allows, type PathRule } from '../core/model/path-rule.ts'

/**
 * Networks by what they let others do (RFC 4787):
 *
 *     public       can be dialled
 *     open         NAT with one mapping for all, that lets in whom was written to, from any of their ports (or anybody)
 *     restricted   NAT with one mapping for all, or a firewall, that lets in replies only: the usual home router
 *     symmetric    NAT with another mapping for each peer
 *     enclosed     only HTTPS gets out, or only an HTTP proxy
 */
export const NETWORKS = ['public', 'open', 'restricted', 'symmetric', 'enclosed'] as const
export type NetworkKind = (typeof NETWORKS)[number]
export type WayKind = 'direct' | 'reverse' | 'punched' | 'relayed' | 'none'

export interface Seen extends NatClass {
  /** A port of the router leads here. */
  isMapped: boolean
  /** Without a NAT: whether strangers get to the port at which we listen; a firewall may let in that one only. */
  isPortOpen?: boolean
  /** Nothing gets out but what the relay is reached by. */
  isEnclosed: boolean
}

/** `undefined`: not known yet. */
export function networkOf({ mapping, filtering, isPortOpen, isMapped, isEnclosed }: Seen): NetworkKind | undefined {
  if (isEnclosed) return 'enclosed'
  if (isMapped) return 'public'
  switch (mapping) {
    case 'unknown':
      return undefined
    case 'none':
      return (isPortOpen ?? filtering !== 'strict') ? 'public' : 'restricted'
    case 'stable':
      return filtering === 'open' ? 'open' : 'restricted'
    case 'varies':
      return 'symmetric'
    default:
      return mapping satisfies never
  }
}

/** The best way from one network to another, for flows (TUNNELS.md §2.1). */
export function wayBetween(own: NetworkKind, peer: NetworkKind): Exclude<WayKind, 'none'> {
  if (own === 'enclosed' || peer === 'enclosed') return 'relayed'
  if (peer === 'public') return 'direct'
  if (own === 'public') return 'reverse'
  const hard = [own, peer].filter((kind) => kind === 'symmetric').length
  if (hard === 2) return 'relayed'
  return hard === 1 && (own === 'restricted' || peer === 'restricted') ? 'relayed' : 'punched'
}

/** For each kind of peer, what this node can expect; what the operator forbids is not. */
export function waysFrom(own: NetworkKind, rule: PathRule): Array<{ peer: NetworkKind; way: WayKind }> {
  return NETWORKS.map((peer) => {
    const best = wayBetween(own, peer)
    return { peer, way: allows(rule, best) ? best : allows(rule, 'relayed') ? 'relayed' : 'none' }
  })
}
