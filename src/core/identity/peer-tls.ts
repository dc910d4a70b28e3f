import { AsyncLocalStorage } from 'node:async_hooks'
import type { Duplex } from 'node:stream'
import { connect, createServer, TLSSocket } from 'node:tls'
import { MeshError } from '../errors.ts'
import type { NodeId } from '../model/ids.ts'
import type { Identity } from './contract.ts'
import { endWithCertificate } from './end-with-certificate.ts'
import { nodeIdOf, printPrincipal } from './principal.ts'
import { certificateOf, HANDSHAKE_MS, type PeerCertificate, serverOptions, tend } from './tls.ts'

/**
 * TLS between two nodes, the same on every path (SEC-24): the bytes underneath may come from a socket that was accepted,
 * dialled, punched or relayed, and are trusted equally little.
 *
 *     dialler    connectSecure(raw, expected) ─── TLS 1.3, both certificates, ALPN ───  acceptor.accept(raw)
 *                └▶ is it the expected node?                                            └▶ which node is it?
 *
 * The server role always goes through a `tls.Server` that listens nowhere: `new TLSSocket(raw, { isServer: true })` lets
 * self-signed clients in (TUNNELS.md V5). With TLS 1.3 a dialler is done before the acceptor has judged it: a refusal
 * shows as the end of the connection. What the dialler says before it has heard from the acceptor is said to the proven node, and read by
 * nobody there before the dialler is proven too; but nothing counts as heard until the acceptor's first message.
 */
export const TUNNEL_ALPN = 'hedgerow/1'
/** The same, after a nonce: the acceptor has asked for this connection, and must know which asking it answers (SEC-25). */
export const CALLED_ALPN = 'hedgerow-called/1'
/** Both sides keep what tunnel/hello.ts calls PROMISED: streams may be opened right behind the first HELLO. */
const PROMPT = { [TUNNEL_ALPN]: 'hedgerow/2', [CALLED_ALPN]: 'hedgerow-called/2' } as const
const CALLED: readonly unknown[] = [CALLED_ALPN, PROMPT[CALLED_ALPN]]
/** What an acceptor speaks, best first. */
const SPOKEN = [PROMPT[TUNNEL_ALPN], PROMPT[CALLED_ALPN], TUNNEL_ALPN, CALLED_ALPN]
/** Handshakes under way at once, of about 50 KiB each; one more, and the one that takes longest is cut off. */
const MAX_PENDING = 256

export interface Acceptor extends Disposable {
  /**
   * The server side of a handshake, and which node it proved.
   * @throws MeshError PEER_REFUSED; the connection underneath is closed then
   */
  accept(raw: Duplex): Promise<Accepted>
}

export interface Accepted {
  peer: NodeId
  certificate: PeerCertificate
  stream: TLSSocket
  /** It begins with a nonce. */
  isCalled: boolean
}

/**
 * The client side of a handshake; resolves once the other end has proved to be the expected node.
 * @throws MeshError PEER_REFUSED; the connection underneath is closed then
 */
export function connectSecure(
  raw: Duplex,
  identity: Identity,
  expected: NodeId,
  signal: AbortSignal,
  alpn: typeof TUNNEL_ALPN | typeof CALLED_ALPN = TUNNEL_ALPN,
): Promise<TLSSocket> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(HANDSHAKE_MS)])
  const protocols = [PROMPT[alpn], alpn]
  return new Promise((resolve, reject) => {
    const fail = (cause: unknown) => {
      limit.removeEventListener('abort', aborted)
      socket.destroy()
      raw.destroy()
      reject(refusal(cause, { node: expected }))
    }
    const aborted = () => fail(limit.reason)
    const socket = connect({
      socket: raw,
      secureContext: identity.secureContext(),
      ALPNProtocols: protocols,
      rejectUnauthorized: true,
      checkServerIdentity: () => undefined, // below: by principal, not by host name
    })
    raw.on('error', fail)
    socket.on('error', fail)
    socket.once('close', () => fail(new Error('the connection ended during the handshake')))
    limit.addEventListener('abort', aborted, { once: true })
    socket.once('secureConnect', () => {
      try {
        const { node: peer, ...certificate } = provenNode(socket, identity, protocols)
        if (peer !== expected)
          throw new MeshError('PEER_REFUSED', { node: expected, reason: 'another node answered', answered: peer })
        endWithCertificate(socket, certificate, identity)
      } catch (error) {
        return fail(error)
      }
      limit.removeEventListener('abort', aborted)
      resolve(socket) // the listeners stay: an error without one would end the process, and `fail` only closes now
    })
    if (limit.aborted) aborted()
  })
}

/** One for all connections that nodes make to us. */
export function createAcceptor(identity: Identity): Acceptor {
  const server = createServer({
    ...serverOptions(identity, { requestClient: true }),
    rejectUnauthorized: true,
    ALPNProtocols: SPOKEN,
  })
  const forget = tend(server, identity)
  /** Which `accept` a finished handshake belongs to: events of a connection run in the context that began it. */
  const arrivals = new AsyncLocalStorage<Arrival>()
  server.on('secureConnection', (socket) => {
    const arrival = arrivals.getStore()
    if (arrival === undefined) socket.destroy()
    else arrival.secured(socket)
  })
  server.on('tlsClientError', (error, socket) => {
    arrivals.getStore()?.failed(error)
    socket.destroy()
  })
  /** In the order of their beginning: connections that say nothing must not keep out those that do. */
  const pending = new Set<Duplex>()

  return {
    accept: (raw) => {
      // those that the listener has closed to make room are not to cost another one its place
      if (pending.size >= MAX_PENDING) for (const one of pending) if (one.destroyed) pending.delete(one)
      const [longest] = pending
      if (pending.size >= MAX_PENDING) longest?.destroy()
      pending.add(raw)
      return new Promise<Accepted>((resolve, reject) => {
        const failed = (cause: unknown) => {
          raw.destroy()
          reject(refusal(cause))
        }
        const secured = (stream: TLSSocket) => {
          stream.on('error', () => stream.destroy())
          try {
            const certificate = provenNode(stream, identity, SPOKEN)
            endWithCertificate(stream, certificate, identity)
            resolve({ peer: certificate.node, certificate, stream, isCalled: CALLED.includes(stream.alpnProtocol) })
          } catch (error) {
            stream.destroy()
            failed(error)
          }
        }
        raw.on('error', failed)
        raw.once('close', () => failed(new Error('the connection ended during the handshake')))
        arrivals.run({ secured, failed }, () => server.emit('connection', raw))
      }).finally(() => {
        pending.delete(raw)
      })
    },
    [Symbol.dispose]: forget,
  }
}

/** Whether whoever is at the other end of a finished handshake keeps what tunnel/hello.ts calls PROMISED. */
export function isPrompt(stream: Duplex): boolean {
  const spoken: readonly unknown[] = Object.values(PROMPT)
  return stream instanceof TLSSocket && spoken.includes(stream.alpnProtocol)
}

interface Arrival {
  secured(stream: TLSSocket): void
  failed(cause: unknown): void
}

function provenNode(
  socket: TLSSocket,
  identity: Identity,
  protocols: readonly string[],
): PeerCertificate & { node: NodeId } {
  if (!protocols.includes(String(socket.alpnProtocol))) throw new MeshError('PEER_REFUSED', { reason: 'not a tunnel' })
  const certificate = certificateOf(socket, identity.revocations)
  const { principal } = certificate
  if (principal.role !== 'node' || principal.mesh !== identity.principal.mesh)
    throw new MeshError('PEER_REFUSED', { reason: 'not a node', principal: printPrincipal(principal) })
  return { ...certificate, node: nodeIdOf(principal) }
}

function refusal(cause: unknown, facts: Record<string, unknown> = {}): MeshError {
  return cause instanceof MeshError ? cause : new MeshError('PEER_REFUSED', facts, { cause })
}
