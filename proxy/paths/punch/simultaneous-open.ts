import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../../src/core/errors.ts'
import { onAbort, within } from '../../../src/core/kit/abort.ts'
import { printHostPort, unmapped, type HostPort } from '../../../src/core/kit/host-port.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { RawConnection } from '../contract.ts'
import type { ExpectedConnection } from '../expected-connections.ts'
import type { ObservedPort } from '../nat/discovery.ts'
import { isTlsServer, type PunchPlan } from '../nat/nat-behavior.ts'

/** The SYN that the system sends again after 1 s, or after 3 s, may be the one that gets through. */
const CONNECT_MS = 4_000
/** A SYN of ours that is refused may cross one of the peer's that gets through. */
const GRACE_MS = 300
const SECURE_MS = 3_000
/** Connections accepted while listening: the port is known to the peer only, but a scan may find it. */
const MAX_ACCEPTED = 8

/** One try, from this side. */
export interface PunchAttempt {
  readonly peer: NodeId
  readonly nonce: string
  readonly attempt: number
  readonly port: ObservedPort
  readonly plan: PunchPlan
  /** The peer's port as observed from outside. */
  readonly to: HostPort
  /** Behind one NAT that hairpins: it may show the peer under an address of its own (RFC 4787 §6, REQ-9). */
  readonly isBehindSameNat: boolean
}

/** TLS over punched connections. */
export interface PunchTls {
  self: NodeId
  /** TLS as the client, then the nonce inside. */
  present: (raw: RawConnection, peer: NodeId, nonce: string, signal: AbortSignal) => Promise<Duplex>
  /** TLS as the server; a connection that presents the right nonce is claimed. */
  serve: (raw: RawConnection) => Promise<unknown>
}

/**
 * The moment of a punch (hole-puncher.ts), in which both SYNs leave: TCP simultaneous open, RFC 9293 §3.5.
 * Resolves with the connection, TLS done.
 */
export async function openSimultaneously(
  attempt: PunchAttempt,
  expected: ExpectedConnection,
  tls: PunchTls,
  signal: AbortSignal,
): Promise<Duplex> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_MS + SECURE_MS)])
  if (attempt.plan === 'listen') return await listen(attempt, expected, tls, limit)
  const raw = rawOf(attempt, await connected(attempt, limit))
  if (!isTlsServer(attempt.plan, tls.self, attempt.peer))
    return await tls.present(raw, attempt.peer, attempt.nonce, limit)
  const served = tls.serve(raw).then(() => expected.arrived)
  return await within(served, SECURE_MS, limit)
}

/** Anybody who finds the port may connect; the nonce decides who is meant. */
function listen(
  attempt: PunchAttempt,
  expected: ExpectedConnection,
  tls: PunchTls,
  limit: AbortSignal,
): Promise<Duplex> {
  const { port, to } = attempt
  let accepted = 0
  const accept = (socket: Socket) => {
    if (++accepted > MAX_ACCEPTED) socket.destroy()
    else void tls.serve(rawOf(attempt, socket)).catch(() => socket.destroy())
  }
  port.port.listen(accept)
  const opener = port.port.dial(to)
  opener.once('connect', () => accept(opener)) // both SYNs met, as in a simultaneous open
  return within(expected.arrived, CONNECT_MS, limit)
}

function rawOf({ port, to }: PunchAttempt, socket: Socket): RawConnection {
  return { path: 'punched', stream: port.port.keep(socket), via: printHostPort(to.host, to.port) }
}

/** By our own SYN, or by the peer's, which our listener takes where our NAT lets it in first. */
function connected({ port, to, isBehindSameNat }: PunchAttempt, signal: AbortSignal): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>()
  const timers: NodeJS.Timeout[] = []
  const fail = (cause: unknown) =>
    reject(new MeshError('NO_PATH', { address: printHostPort(to.host, to.port) }, { cause }))
  const listener = onAbort(signal, fail)
  timers.push(setTimeout(() => fail(new Error('no answer')), CONNECT_MS))
  port.port.listen((socket) => {
    if (isBehindSameNat || isFrom(socket, to)) resolve(socket)
    else socket.destroy()
  })
  const socket = port.port.dial(to)
  socket.once('connect', () => resolve(socket)) // the caller keeps it; a second one is closed with the port
  socket.once('error', (error) => timers.push(setTimeout(() => fail(error), GRACE_MS)))
  return promise.finally(() => {
    for (const timer of timers) clearTimeout(timer)
    listener[Symbol.dispose]()
  })
}

function isFrom({ remoteAddress, remotePort }: Socket, { host, port }: HostPort): boolean {
  return unmapped(remoteAddress ?? '') === host && remotePort === port
}
