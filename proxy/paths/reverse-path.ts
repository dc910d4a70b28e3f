import type { Duplex } from 'node:stream'
import { MeshError } from '../../src/core/errors.ts'
import { unlessAborted } from '../../src/core/kit/abort.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { parseHostPort, type HostPort } from '../../src/core/kit/host-port.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { race } from '../../src/core/kit/race.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import { familyOf } from './addresses.ts'
import type { Dialer, RawConnection } from './contract.ts'
import { dialTcp } from './dial-tcp.ts'
import type { DialGuard } from './dial-guard.ts'
import type { ExpectedConnections } from './expected-connections.ts'
import type { Signals } from './signals.ts'

/**
 * We can be dialled and the other node cannot, so it is asked to dial us.
 *
 *     A (public)                       B (behind a NAT)
 *     dial-me(nonce, addresses) ─────▶ fair, and not too often? (dial-guard.ts)
 *                  ◀────── TCP, TLS (B is the client), nonce inside ─────
 *     that nonce, from B: the dial has succeeded; A greets, since it is A that dialled
 *
 * B tries each address once, which is two SYNs, and sends nothing else before the certificate has shown that it is A.
 */
export interface ReverseOptions {
  signals: Signals
  expected: ExpectedConnections
  /** The addresses at which anybody can dial us; when there is none, nobody is asked to. */
  reachable: () => readonly string[]
}

/** For the other node's dial and both handshakes; longer than what it waits for itself. */
const ARRIVE_MS = 5_000
/** The system sends the second SYN after 1 s. */
const CONNECT_MS = 1_800
const MOST_ADDRESSES = 3

export function reverseDialer({ signals, expected, reachable }: ReverseOptions): Dialer {
  return {
    path: 'reverse',
    suits: (node) => reachable().length > 0 && signals.canReach(node),
    reachability: ({ addresses }) => (haveFamilyInCommon(addresses, reachable()) ? 'open' : 'unlikely'),
    dial: async (node, signal) => {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(ARRIVE_MS)])
      using expectation = expected.expect(node.id)
      const addresses = reachable().slice(0, MOST_ADDRESSES)
      if (!signals.send(node, { type: 'dial-me', nonce: expectation.nonce, addresses }))
        throw new MeshError('NO_PATH', { node: node.id, reason: 'no way to ask it to dial us' })
      const stream = await unlessAborted(expectation.arrived, limit).catch((cause: unknown) => {
        throw new MeshError('NO_PATH', { node: node.id, reason: 'the node did not dial us' }, { cause })
      })
      return { path: 'reverse', stream, via: 'its own dial', proven: node.id }
    },
  }
}

/** A node that lists no address of a family can hardly dial one. */
function haveFamilyInCommon(theirs: readonly string[], ours: readonly string[]): boolean {
  const family = (address: string) => familyOf(parseHostPort(address)?.host ?? '')
  const families = new Set(theirs.map(family))
  return families.size === 0 || ours.some((address) => families.has(family(address)))
}

export interface DialRequestOptions {
  signals: Signals
  guard: DialGuard
  /** TLS as the client, then the nonce inside. */
  present: (raw: RawConnection, peer: NodeId, nonce: string, signal: AbortSignal) => Promise<Duplex>
  /** Receives a connection that was made. */
  incoming: (raw: RawConnection) => void
  closing: AbortSignal
  log: Log
}

/** Dials the nodes that ask for it. */
export function answerDialRequests(options: DialRequestOptions): void {
  const { signals, guard, log } = options
  const dialling = new Set<NodeId>()
  signals.on('dial-me', ({ from, seenAddress, signal: { nonce, addresses } }) => {
    if (dialling.has(from)) return // one at a time
    const allowed = guard.allowed({ from, seenAddress }, addresses, MOST_ADDRESSES)
    if (allowed.length === 0) return log.info('request to dial back refused', { peer: from, addresses })
    dialling.add(from)
    dialBack({ peer: from, nonce, addresses: allowed }, options)
      .catch((error: unknown) => log.debug('could not dial back', { peer: from, error }))
      .finally(() => dialling.delete(from))
  })
}

async function dialBack(
  { peer, nonce, addresses }: { peer: NodeId; nonce: string; addresses: readonly HostPort[] },
  { present, incoming, closing }: DialRequestOptions,
): Promise<void> {
  const raw = await dialAny(addresses, closing)
  const limit = AbortSignal.any([closing, AbortSignal.timeout(ARRIVE_MS)])
  const stream = await present(raw, peer, nonce, limit)
  incoming({ ...raw, stream, proven: peer })
}

/** All at once; those that answer after the first are closed. */
async function dialAny(addresses: readonly HostPort[], closing: AbortSignal): Promise<RawConnection> {
  const limit = AbortSignal.any([closing, AbortSignal.timeout(CONNECT_MS)])
  const runners = addresses.map((address) => ({ aloneMs: 0, run: (late: AbortSignal) => dialTcp(address, late) }))
  return await race(runners, { clock: systemClock, discard: ({ stream }) => stream.destroy() }, limit)
}
