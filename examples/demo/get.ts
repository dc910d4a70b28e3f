/**
 * What the demo needs of curl, for machines that have none and where nothing may be installed:
 *
 *     node examples/demo/get.ts http://shop.acme.cart.prod.any.rr.local:8080/?[1-20]
 *
 * Prints the body of each answer, one request after another, each on a new connection. HTTP_PROXY is followed, as curl does.
 */
import { Agent, get } from 'node:http'
import { text } from 'node:stream/consumers'

const TIMEOUT_MS = 20_000
const agent = new Agent({ keepAlive: false, proxyEnv: process.env })
try {
  for (const address of addresses(process.argv[2] ?? '')) process.stdout.write(await body(address))
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`)
  process.exitCode = 1
}

/** `[1-N]` at the end of a URL stands for N requests. */
function addresses(url: string): string[] {
  const [, base = url, last] = /^(.*)\[1-(\d+)\]$/.exec(url) ?? []
  return last === undefined ? [url] : Array.from({ length: Number(last) }, (_, i) => `${base}${i + 1}`)
}

function body(address: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get(address, { agent, timeout: TIMEOUT_MS }, (response) => {
      text(response).then(resolve, reject)
    })
    request.on('timeout', () => request.destroy(new Error(`no answer within ${TIMEOUT_MS / 1_000} s`)))
    request.on('error', reject)
  })
}
