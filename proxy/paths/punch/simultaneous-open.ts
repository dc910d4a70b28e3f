import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../../src/core/errors.ts'
import { onAbort, within } from '../../../src/core/kit/abort.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { ExpectedConnection } from '../expected-connections.ts'
import type { RawConnection } from '../contract.ts'
import { isTlsServer, type PunchPlan } from '../nat/nat-behavior.ts'
import type { SeenPort } from '../nat/discovery.ts'
import { printHostPort, type HostPort, unmapped } from '../../../src/core/kit/host-port.ts'

/** The SYN that the system sends after 1 s and after 3 s may be the one that gets through (TUNNELS.md §2.1). */
const FIRE_MS = 4_000
/** A refused SYN of ours may cross one of the peer's that gets through. */
const GRACE_MS = 300
const SECURE_MS = 3_000
/** Who waits lets so many try: the port is known to the peer only, but a scan may find it. */
const MAX_TRIES = 8

/** One try, from this side. */
export interface PunchAttempt {
  readonly peer: NodeId
  readonly nonce: string
  readonly attempt: number
  readonly seen: SeenPort
  readonly plan: PunchPlan
  readonly to: HostPort
  /** Both are behind one NAT that leads back in: it may show the other under an address of its own (RFC 4787 §6, REQ-9). */
  readonly isTurned: boolean
}

export interface PunchParts {
  self: NodeId
  /** TLS as the client, and the nonce inside. */
  present: (raw: RawConnection, peer: NodeId, nonce: string, signal: AbortSignal) => Promise<Duplex>
  /** TLS as the server; what presents the right nonce is claimed. */
  serve: (raw: RawConnection) => Promise<unknown>
}

/** The moment of a punch (punched.ts): both SYNs. Resolves with the connection, secured. */
export async function punch(
  one: PunchAttempt,
  call: ExpectedConnection,
  parts: PunchParts,
  signal: AbortSignal,
): Promise<Duplex> {
  const { self, present, serve } = parts
  const { peer, nonce, plan, seen, to } = one
  const limit = AbortSignal.any([signal, AbortSignal.timeout(FIRE_MS + SECURE_MS)])
  const isServer = isTlsServer(plan, self, peer)
  const raw = (socket: Socket): RawConnection => ({
    path: 'punched',
    stream: seen.port.keep(socket),
    via: printHostPort(to.host, to.port),
  })
  if (plan === 'wait') {
    // whoever comes may try; the nonce decides
    let tries = 0
    const take = (socket: Socket) => {
      if (++tries > MAX_TRIES) socket.destroy()
      else void serve(raw(socket)).catch(() => socket.destroy())
    }
    seen.port.listen(take)
    const opener = seen.port.dial(to)
    opener.once('connect', () => take(opener)) // both met, as if by plan
    return await within(call.arrived, FIRE_MS, limit)
  }
  const socket = await connected(one, limit)
  if (!isServer) return await present(raw(socket), peer, nonce, limit)
  const served = serve(raw(socket))
  return await Promise.race([
    within(call.arrived, SECURE_MS, limit),
    served.then(
      () => within(call.arrived, SECURE_MS, limit),
      (error: unknown) => Promise.reject(error as Error),
    ),
  ])
}

/** By our own SYN, or by the peer's, which our listener takes where our NAT lets it in first. */
function connected({ seen, to, isTurned }: PunchAttempt, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const timers: NodeJS.Timeout[] = []
    const settle = () => {
      for (const timer of timers) clearTimeout(timer)
      listener[Symbol.dispose]()
    }
    const fail = (cause: unknown) => {
      settle()
      reject(new MeshError('NO_PATH', { address: printHostPort(to.host, to.port) }, { cause }))
    }
    const won = (socket: Socket) => {
      settle()
      resolve(socket) // kept by who makes use of it; another one goes with the port
    }
    if (signal.aborted) return reject(signal.reason as Error)
    const listener = onAbort(signal, fail)
    timers.push(setTimeout(() => fail(new Error('no answer')), FIRE_MS))
    seen.port.listen((socket) => {
      if (isTurned || isFrom(socket, to)) won(socket)
      else socket.destroy()
    })
    const socket = seen.port.dial(to)
    socket.once('connect', () => won(socket))
    socket.once('error', (error) => timers.push(setTimeout(() => fail(error), GRACE_MS)))
  })
}

function isFrom({ remoteAddress, remotePort }: Socket, { host, port }: HostPort): boolean {
  return unmapped(remoteAddress ?? '') === host && remotePort === port
}
