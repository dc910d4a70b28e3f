import type { Duplex } from 'node:stream'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import { isMeshError, MeshError } from '../../../src/core/errors.ts'
import { systemClock, type Clock } from '../../../src/core/kit/clock.ts'
import { dialUpgrade } from '../../../src/core/kit/upgrade.ts'
import { dialBytes, dialText, type DialOptions } from '../../../src/core/kit/websocket.ts'
import { KNOCK, PING, refusalOf, TO } from '../../relay/wire/messages.ts'
import type { Dialer, RawConnection } from '../contract.ts'
import { orderRelays } from './relay-choice.ts'
import { staggered } from '../../../src/core/kit/race.ts'

/** How this node proves itself to relays; asked anew for each connection, because certificates renew. */
export type RelayCredentials = () => Pick<DialOptions, 'tls' | 'verify' | 'egress'>

/** A dialler may wait at the relay for the listener; this is longer than the relay's own limit, so its reason arrives. */
const DIAL_MS = 7_000
/** How long one relay is alone before the next is tried beside it; two nodes seldom meet at a relay any slower. */
const STAGGER_MS = 200
/** A node listens at two or three. */
const MOST_TRIED = 4
export interface RelayedDialerOptions {
  credentials: RelayCredentials
  /** How far a relay is from here, where that was measured. */
  rttMs?: (url: string) => number | undefined
  /** How far a node is from here through a relay, where that is known. */
  throughMs?: (node: NodeId, url: string) => number | undefined
  /** Announces our leg where we listen too, so that both are on their way at once. */
  knock?: (url: string, to: NodeId) => AnnouncedLeg | undefined
  clock?: Clock
}

/** A leg that the relay and the other node know of before it is there. */
export interface AnnouncedLeg {
  nonce: string
  /** It does not come. */
  withdraw: () => void
}

/** Reaches nodes through the relays they listen at: the one that is nearest to both first, and soon the next beside it. */
export function relayedDialer({
  credentials,
  rttMs = unknown,
  throughMs = unknown,
  knock = unknown,
  clock = systemClock,
}: RelayedDialerOptions): Dialer {
  const through = async (relay: string, id: NodeId, signal: AbortSignal): Promise<RawConnection> => {
    const announced = knock(relay, id)
    const query = { [TO]: id, ...(announced === undefined ? {} : { [KNOCK]: announced.nonce }) }
    try {
      const stream = await dialLeg(asking(relay, query), { ...credentials(), timeoutMs: DIAL_MS }, signal)
      return { path: 'relayed', stream, via: relay }
    } catch (error) {
      announced?.withdraw()
      throw signal.aborted ? error : readable(error, relay, id)
    }
  }
  return {
    path: 'relayed',
    suits: ({ relays }) => relays.length > 0,
    dial: async ({ id, relays }: NodeReach, signal) => {
      const meetMs = (relay: string) => throughMs(id, relay)
      const tries = orderRelays(relays.slice(0, MOST_TRIED), rttMs, meetMs).map(
        (relay) => (limit: AbortSignal) => through(relay, id, limit),
      )
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

/** How far a relay is at which this node does not listen: the shortest of a few round trips. @throws MeshError */
export async function measureRelay(url: string, credentials: RelayCredentials, signal: AbortSignal): Promise<number> {
  const channel = await dialText(at(url, PING, ''), credentials(), signal)
  try {
    let shortest = Number.POSITIVE_INFINITY
    for (let tries = 0; tries < 3; tries += 1) shortest = Math.min(shortest, await channel.measure())
    return shortest
  } finally {
    channel.close('measured')
  }
}

/** One leg: plain bytes after an upgrade; a WebSocket where somebody on the way answers who is not the relay. */
export async function dialLeg(url: string, options: DialOptions, signal: AbortSignal): Promise<Duplex> {
  try {
    return await dialUpgrade(url, options, signal)
  } catch (error) {
    const isForeign = isMeshError(error, 'REQUEST_FAILED') && refusalOf(error.details['status']) === undefined
    if (!isForeign || signal.aborted) throw error
    return await dialBytes(url, options, signal)
  }
}

function unknown(): undefined {
  return undefined
}

/** The relay, asked for something. */
export function at(relay: string, key: string, value: string): string {
  return asking(relay, { [key]: value })
}

function asking(relay: string, query: Readonly<Record<string, string>>): string {
  const url = new URL(relay)
  url.search = new URLSearchParams(query).toString()
  return url.href
}

/** What the relay answered, in words. */
export function readable(error: unknown, relay: string, node?: NodeId): unknown {
  if (!isMeshError(error, 'REQUEST_FAILED')) return error
  const { status } = error.details
  return new MeshError('RELAY_REFUSED', { node, relay, reason: refusalOf(status) ?? `status ${String(status)}` })
}
