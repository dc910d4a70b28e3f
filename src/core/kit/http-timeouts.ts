/** How long a server waits for a client that sends nothing, or a byte now and then, and holds a connection meanwhile (slowloris). */
export interface HttpTimeouts {
  /** For the TLS handshake. Smaller fails on links with a round trip of seconds. */
  handshakeMs: number
  /** For the head of a request, from the connection or the previous request on. */
  headersMs: number
  /** For the whole request. */
  bodyMs: number
  /** Between two requests. */
  idleMs: number
}

export const HTTP_TIMEOUTS: HttpTimeouts = { handshakeMs: 5_000, headersMs: 5_000, bodyMs: 15_000, idleMs: 15_000 }

/** How often Node looks for slow requests; its default of 30 s would let them live that much longer. */
const CHECK_MS = 1_000

/** For `createServer` of `node:http` and `node:https`. */
export function applyHttpTimeouts({ headersMs, bodyMs, idleMs }: HttpTimeouts) {
  return {
    headersTimeout: headersMs,
    requestTimeout: bodyMs,
    keepAliveTimeout: idleMs,
    connectionsCheckingInterval: Math.min(CHECK_MS, headersMs / 4),
  } as const
}
