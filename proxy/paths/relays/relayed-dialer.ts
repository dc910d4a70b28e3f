import type { Duplex } from 'node:stream'
import { isMeshError, MeshError } from '../../../src/core/errors.ts'
import { systemClock, type Clock } from '../../../src/core/kit/clock.ts'
import { staggered } from '../../../src/core/kit/race.ts'
import { dialUpgrade } from '../../../src/core/kit/upgrade.ts'
import { dialBytes, dialText, type DialOptions } from '../../../src/core/kit/websocket.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import { LEG_REQUEST, PING, refusalOf, TO } from '../../relay/wire/messages.ts'
import type { Dialer, RawConnection } from '../contract.ts'
import { orderRelays } from './relay-choice.ts'

/** How this node proves itself to relays; asked again for each connection, since certificates are renewed. */
export type RelayCredentials = () => Pick<DialOptions, 'tls' | 'verify' | 'egress'>

/** A dialer may wait at the relay for the listener: longer than the relay's own limit, so that its refusal arrives. */
const DIAL_MS = 7_000
/** How long one relay is alone before the next is tried beside it; two nodes are seldom joined any slower. */
const STAGGER_MS = 200
/** A node listens at two or three relays. */
const MOST_TRIED = 4

export interface RelayedDialerOptions {
  credentials: RelayCredentials
  /** How far a relay is from here, where that was measured. */
  rttMs?: (url: string) => number | undefined
  /** How far a node is from here through a relay, where that is known. */
  throughMs?: (node: NodeId, url: string) => number | undefined
  /** Announces our leg at a relay where we listen too, so that both legs are dialled at the same time. */
  requestLeg?: (url: string, to: NodeId) => AnnouncedLeg | undefined
  clock?: Clock
}

/** A leg that the relay and the other node expect before it is there. */
export interface AnnouncedLeg {
  nonce: string
  /** The leg will not come. */
  withdraw: () => void
}

/** Reaches nodes through the relays at which they listen: first the one that is nearest to both, and soon the next beside it. */
export function relayedDialer(options: RelayedDialerOptions): Dialer {
  const { rttMs = unknown, throughMs = unknown, clock = systemClock } = options
  return {
    path: 'relayed',
    suits: ({ relays }) => relays.length > 0,
    dial: async ({ id, relays }: NodeReach, signal) => {
      const inOrder = orderRelays(relays.slice(0, MOST_TRIED), rttMs, (relay) => throughMs(id, relay))
      const tries = inOrder.map((relay) => (limit: AbortSignal) => dialThrough(relay, id, options, limit))
      const discard = ({ stream }: RawConnection) => stream.destroy()
      try {
        return await staggered(tries, { staggerMs: STAGGER_MS, clock, discard }, signal)
      } catch (error) {
        if (!(error instanceof AggregateError)) throw error
        if (error.errors.length === 1) throw error.errors[0]
        throw new MeshError('RELAY_REFUSED', { node: id, relays }, { cause: error.errors[0] })
      }
    },
  }
}

async function dialThrough(
  relay: string,
  id: NodeId,
  { credentials, requestLeg = unknown }: RelayedDialerOptions,
  signal: AbortSignal,
): Promise<RawConnection> {
  const announced = requestLeg(relay, id)
  const query = { [TO]: id, ...(announced === undefined ? {} : { [LEG_REQUEST]: announced.nonce }) }
  try {
    const stream = await dialLeg(withQuery(relay, query), { ...credentials(), timeoutMs: DIAL_MS }, signal)
    return { path: 'relayed', stream, via: relay }
  } catch (error) {
    announced?.withdraw()
    throw signal.aborted ? error : refusalReason(error, relay, id)
  }
}

/** How far a relay is at which this node does not listen: the shortest of three round trips. @throws MeshError */
export async function measureRelay(url: string, credentials: RelayCredentials, signal: AbortSignal): Promise<number> {
  const channel = await dialText(relayUrl(url, PING, ''), credentials(), signal)
  try {
    let shortest = Number.POSITIVE_INFINITY
    for (let tries = 0; tries < 3; tries += 1) shortest = Math.min(shortest, await channel.measure())
    return shortest
  } finally {
    channel.close('measured')
  }
}

/** Dials one leg: plain bytes after an HTTP upgrade, or a WebSocket where something on the way refuses other upgrades. */
export async function dialLeg(url: string, options: DialOptions, signal: AbortSignal): Promise<Duplex> {
  try {
    return await dialUpgrade(url, options, signal)
  } catch (error) {
    const isFromRelay = !isMeshError(error, 'REQUEST_FAILED') || refusalOf(error.details['status']) !== undefined
    if (isFromRelay || signal.aborted) throw error
    return await dialBytes(url, options, signal)
  }
}

function unknown(): undefined {
  return undefined
}

/** The URL of one request to a relay. */
export function relayUrl(relay: string, key: string, value: string): string {
  return withQuery(relay, { [key]: value })
}

function withQuery(relay: string, query: Readonly<Record<string, string>>): string {
  const url = new URL(relay)
  url.search = new URLSearchParams(query).toString()
  return url.href
}

/** An HTTP status from the relay as the error that people read; any other error as it is. */
export function refusalReason(error: unknown, relay: string, node?: NodeId): unknown {
  if (!isMeshError(error, 'REQUEST_FAILED')) return error
  const { status } = error.details
  return new MeshError('RELAY_REFUSED', { node, relay, reason: refusalOf(status) ?? `status ${String(status)}` })
}
