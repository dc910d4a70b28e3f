/** How long a server waits for who says nothing, or a byte now and then, and holds a connection meanwhile (slowloris). */
export interface HttpTimeouts {
  /** Until the TLS handshake is done. Smaller fails on links of seconds. */
  handshakeMs: number
  /** Until a request's head is there, from the connection or the request before on. */
  headersMs: number
  /** Until all of the request is there. */
  bodyMs: number
  /** Between two requests. */
  idleMs: number
}

export const HTTP_TIMEOUTS: HttpTimeouts = { handshakeMs: 5_000, headersMs: 5_000, bodyMs: 15_000, idleMs: 15_000 }

/** Node looks for slow requests this often; every 30 s when not said. */
const LOOK_MS = 1_000

/** For `createServer` of `node:http` and `node:https`. */
export function applyHttpTimeouts({ headersMs, bodyMs, idleMs }: HttpTimeouts) {
  return {
    headersTimeout: headersMs,
    requestTimeout: bodyMs,
    keepAliveTimeout: idleMs,
    connectionsCheckingInterval: Math.min(LOOK_MS, headersMs / 4),
  } as const
}
