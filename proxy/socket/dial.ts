import { connect, isIP, isIPv4, type Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { OWN_PROXY_HEADER } from '../../src/core/kit/proxy-header.ts'
import type { Refusal } from '../tunnel/contract.ts'
import { unmapped } from '../../src/core/kit/host-port.ts'

/** Where an instance of this node listens. */
export interface Endpoint {
  host: string
  port: number
  /** It wants to be told of its callers by this header, before their first byte; absent: never. */
  proxyProtocol?: 'v2'
}

export interface DialOptions {
  timeoutMs: number
  /** The caller's own VIP, so that the instance sees who calls; used where its answers come back here: on this machine. */
  from?: string | undefined
  /** Who calls, as a PROXY header; only for an endpoint that asks for it. */
  introduce?: ((localPort: number) => Buffer) | undefined
  /** Addresses no flow may reach, the agent's own ports above all (SEC-23). */
  forbids?: ((address: string, port: number) => boolean) | undefined
}

export interface DialEvents {
  connected(socket: Socket): void
  failed(refusal: Refusal, reason: string): void
}

/** Connects to an instance; tells exactly one outcome, unless the returned function (give up) comes first. */
export function dialInstance(endpoint: Endpoint, options: DialOptions, told: DialEvents): () => void {
  const { host, port } = endpoint
  const { timeoutMs, forbids, introduce } = options
  const from = options.from !== undefined && isIPv4(host) && isThisMachine(host) ? options.from : undefined
  const isForbidden = (address: string) => isLinkLocal(address) || forbids?.(address, port) === true
  if (isIP(host) !== 0 && isForbidden(host)) {
    queueMicrotask(() => told.failed('not-here', `no flow may reach ${host}:${port}`))
    return () => undefined
  }
  let retry: (() => void) | undefined
  const socket = connect({
    host,
    port,
    allowHalfOpen: true,
    noDelay: true,
    ...(from === undefined ? {} : { localAddress: from }),
  })
  const settle = (): void => {
    clearTimeout(timer)
    socket.removeListener('connect', onConnect)
    socket.removeListener('error', onError)
    socket.on('error', ignore)
  }
  const fail = (refusal: Refusal, reason: string): void => {
    settle()
    socket.destroy()
    told.failed(refusal, reason)
  }
  const onConnect = (): void => {
    if (isForbidden(socket.remoteAddress ?? '')) {
      return fail('not-here', `no flow may reach ${socket.remoteAddress}:${port}`)
    }
    settle()
    socket.pause()
    if (endpoint.proxyProtocol !== undefined) socket.write(introduce?.(socket.localPort ?? 0) ?? OWN_PROXY_HEADER)
    told.connected(socket)
  }
  const onError = (error: NodeJS.ErrnoException): void => {
    const plain = host.startsWith('127.') ? '127.0.0.1' : host
    if (from !== undefined && from !== plain && (error.code === 'EADDRNOTAVAIL' || error.code === 'EADDRINUSE')) {
      settle()
      socket.destroy()
      // Who calls is a courtesy, the call is not. Bound as well: the system gives connections without an address of their own
      // no port that is bound to any other.
      retry = dialInstance(endpoint, { ...options, from: plain }, told)
      return
    }
    fail(REFUSAL_OF[error.code ?? ''] ?? 'unreachable', error.code ?? error.message)
  }
  const timer = setTimeout(() => fail('timeout', `no answer from ${host}:${port} in ${timeoutMs} ms`), timeoutMs)
  socket.on('connect', onConnect)
  socket.on('error', onError)
  return () => {
    if (retry !== undefined) return retry()
    settle()
    socket.destroy()
  }
}

/** Not a function of the call above: it stays with the socket, and would keep all of that call. */
function ignore(): void {
  // 'close' follows and tells it
}

/** What the system's errors mean; all others (EHOSTUNREACH, ENETUNREACH, …): unreachable. */
export const REFUSAL_OF: Readonly<Record<string, Refusal>> = {
  ECONNREFUSED: 'refused',
  ECONNRESET: 'refused',
  ETIMEDOUT: 'timeout',
  EMFILE: 'overloaded',
  ENFILE: 'overloaded',
}

/** 169.254.0.0/16 (cloud metadata) and fe80::/10. */
export function isLinkLocal(address: string): boolean {
  const plain = unmapped(address.toLowerCase())
  return plain.startsWith('169.254.') || /^fe[89ab][0-9a-f]:/.test(plain)
}

/** How long the list of interfaces is believed; reading it costs some 50 µs. */
const BELIEVED_MS = 1_000

let own = new Set<string>()
let until = 0

/** An address that ends on this machine: loopback, or one of an interface. */
export function isThisMachine(address: string): boolean {
  if (/^(?:127\.|::1$|0\.0\.0\.0$|::$|::ffff:127\.)/.test(address)) return true
  const now = performance.now()
  if (now >= until) {
    own = new Set(Object.values(networkInterfaces()).flatMap((found = []) => found.map(({ address }) => address)))
    until = now + BELIEVED_MS
  }
  return own.has(address)
}
