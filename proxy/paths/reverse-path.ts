import { isIPv6 } from 'node:net'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../src/core/errors.ts'
import { unlessAborted } from '../../src/core/kit/abort.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { race } from '../../src/core/kit/race.ts'
import { dialTcp } from './dial-tcp.ts'
import type { Log } from '../../src/core/kit/log.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { ExpectedConnections } from './expected-connections.ts'
import type { Dialer, RawConnection } from './contract.ts'
import type { DialGuard } from './dial-guard.ts'
import type { Signals } from './signals.ts'
import { parseHostPort, type HostPort } from '../../src/core/kit/host-port.ts'

/**
 * We can be dialled, and the other node cannot: it is asked to dial us.
 *
 *     A (public)                       B (behind a NAT)
 *     dial-me(nonce, addresses) ─────▶ fair, and not too often? (guard.ts)
 *                  ◀────── TCP, TLS (B is its client), nonce inside ─────
 *     that nonce, from B: the dial is done; A greets as the dialler that it is
 *
 * B tries each address once: two SYNs, no more, and nothing else before the certificate has shown that it is A.
 */
export interface ReverseOptions {
  signals: Signals
  calls: ExpectedConnections
  /** Where anybody can dial us; nothing: nobody is asked to. */
  reachable: () => readonly string[]
}

/** The other's dial, and both handshakes; longer than what it waits for itself. */
const ARRIVE_MS = 5_000
/** The second SYN leaves after 1 s. */
const CONNECT_MS = 1_800
const MOST_ADDRESSES = 3

export function reverseDialer({ signals, calls, reachable }: ReverseOptions): Dialer {
  return {
    path: 'reverse',
    suits: (node) => reachable().length > 0 && signals.canReach(node),
    reachability: ({ addresses }) => (haveFamilyInCommon(addresses, reachable()) ? 'open' : 'unlikely'),
    dial: async (node, signal) => {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(ARRIVE_MS)])
      using call = calls.expect(node.id)
      const addresses = reachable().slice(0, MOST_ADDRESSES)
      if (!signals.send(node, { type: 'dial-me', nonce: call.nonce, addresses }))
        throw new MeshError('NO_PATH', { node: node.id, reason: 'no way to ask it to dial us' })
      const stream = await unlessAborted(call.arrived, limit).catch((cause: unknown) => {
        throw new MeshError('NO_PATH', { reason: 'the node did not dial us' }, { cause })
      })
      return { path: 'reverse', stream, via: 'its own dial', proven: node.id }
    },
  }
}

/** Who lists no address of a family can hardly dial one. */
function haveFamilyInCommon(theirs: readonly string[], ours: readonly string[]): boolean {
  const families = new Set(theirs.map((address) => isIPv6(parseHostPort(address)?.host ?? '')))
  return families.size === 0 || ours.some((address) => families.has(isIPv6(parseHostPort(address)?.host ?? '')))
}

export interface AnswerOptions {
  signals: Signals
  guard: DialGuard
  /** TLS as its client, and the nonce inside. */
  present: (raw: RawConnection, peer: NodeId, nonce: string, signal: AbortSignal) => Promise<Duplex>
  /** What becomes of a connection that is made. */
  incoming: (raw: RawConnection) => void
  closing: AbortSignal
  log: Log
}

/** Dials nodes that ask for it. */
export function answerCalls({ signals, guard, present, incoming, closing, log }: AnswerOptions): void {
  const asked = new Set<NodeId>()
  signals.on('dial-me', ({ from, seen, signal: { nonce, addresses } }) => {
    if (asked.has(from)) return // one at a time
    const [first, ...others] = guard.allowed({ from, seen }, addresses, MOST_ADDRESSES)
    if (first === undefined) return log.info('not dialled where a node asked us to', { peer: from, addresses })
    asked.add(from)
    const dial = async () => {
      const raw = await dialAny([first, ...others], closing)
      const stream = await present(raw, from, nonce, AbortSignal.any([closing, AbortSignal.timeout(ARRIVE_MS)]))
      incoming({ ...raw, stream, proven: from })
    }
    dial()
      .catch((error: unknown) => log.debug('a node that asked us to dial it was not reached', { peer: from, error }))
      .finally(() => asked.delete(from))
  })
}

/** All of them at once; those that answer after the first are closed. */
async function dialAny(addresses: readonly HostPort[], closing: AbortSignal): Promise<RawConnection> {
  const limit = AbortSignal.any([closing, AbortSignal.timeout(CONNECT_MS)])
  const runners = addresses.map((address) => ({ aloneMs: 0, run: (late: AbortSignal) => dialTcp(address, late) }))
  return await race(runners, { clock: systemClock, discard: ({ stream }) => stream.destroy() }, limit)
}
