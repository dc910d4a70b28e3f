import { createServer } from 'node:http'

/**
 * What the three services of the shop share: an HTTP server on the address the mesh gives, and a call by semantic URL.
 * Ordinary clients need no library for that: the mesh sets HTTP_PROXY, and NODE_USE_ENV_PROXY=1 makes Node heed it.
 */
export function serve(answer: () => Promise<Record<string, unknown>>): void {
  const { PORT = '8080', HOST = '127.0.0.1', HEDGEROW_INSTANCE: instance, HEDGEROW_NODE: node } = process.env
  const server = createServer((request, response) => {
    const caller = `${request.socket.remoteAddress}:${request.socket.remotePort}`
    void answer()
      .then((body) => ({ status: 200, body }))
      .catch((error: Error) => ({
        status: 502,
        body: { error: error.message, cause: (error.cause as Error | undefined)?.message },
      }))
      .then(({ status, body }) => {
        response.writeHead(status, { 'content-type': 'application/json' })
        response.end(`${JSON.stringify({ instance, node, pid: process.pid, caller, ...body })}\n`)
      })
  })
  server.listen(Number(PORT), HOST)
  process.on('SIGTERM', () => server.close())
}

/** A new connection each time, so that each call is a choice of its own. */
export async function call(url: string): Promise<unknown> {
  const response = await fetch(url, { headers: { connection: 'close' }, signal: AbortSignal.timeout(5_000) })
  if (!response.ok) throw new Error(`${url} answered ${response.status}`)
  return response.json()
}
