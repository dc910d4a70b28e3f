import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import { MeshError } from '../../../src/core/errors.ts'
import { Carrier } from '../carrier/carrier.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { Hello } from '../wire/hello.ts'
import { Pump } from '../carrier/pump.ts'

/** What becomes of a carrier whose HELLO has come; the returned function is called when its connection is no more. */
export type OnHello = (theirs: Hello, carrier: Carrier, pump: Pump) => OnCarrierLost
export type OnCarrierLost = (reason: Error | undefined) => void

export interface Handshake {
  /** Authenticated already. */
  stream: Duplex
  path: PathKind
  now: () => number
  /** The dialling side's HELLO; the accepting side answers in `meet`. */
  proposal?: Hello
  /** Takes the carrier before it is answered: what it sends follows the proposal at once. `meet` comes all the same. */
  presume?: ((carrier: Carrier, pump: Pump) => OnCarrierLost) | undefined
  meet: OnHello
}

/**
 * Exchanges HELLO on a new connection and hands the carrier to `meet`, which runs before any further frame is looked at.
 * @throws MeshError when the connection ends, breaks the rules, or the signal aborts first; the connection is closed then.
 */
export function handshake(
  { stream, path, now, proposal, presume, meet }: Handshake,
  signal: AbortSignal,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const carrier = new Carrier(path, now)
  if (stream instanceof TLSSocket) carrier.secrets = stream
  const unanswered: OnCarrierLost = (reason) =>
    reject(reason ?? new MeshError('SESSION_CLOSED', { reason: 'the connection ended before HELLO' }))
  let lost = unanswered
  const pump = new Pump(carrier, stream, (reason) => lost(reason))
  const tooLate = () => pump.cut(signal.reason as Error)
  carrier.onHello = (theirs) => {
    carrier.onHello = undefined
    lost = meet(theirs, carrier, pump)
    signal.removeEventListener('abort', tooLate)
    resolve()
  }
  if (proposal !== undefined) carrier.sendHello(proposal)
  const presumed = presume?.(carrier, pump)
  if (presumed !== undefined)
    lost = (reason) => {
      presumed(reason)
      unanswered(reason)
    }
  if (signal.aborted) tooLate()
  signal.addEventListener('abort', tooLate, { once: true })
  return promise.finally(() => signal.removeEventListener('abort', tooLate))
}
