import { createHmac, randomBytes } from 'node:crypto'
import Type, { type Static } from 'typebox'
import { checkerOf } from '../core/kit/checker.ts'
import type { KeptFile } from '../core/kit/kept-file.ts'

const Port = Type.Integer({ minimum: 0, maximum: 65_535 })
const Remembered = Type.Object({
  secret: Type.String({ pattern: '^[0-9a-f]{64}$' }),
  socksPort: Port,
  httpPort: Port,
})
type Remembered = Static<typeof Remembered>
const remembered = checkerOf(Remembered)

/**
 * Hosts that are called without the proxy, spelled for each reader: Node and wget compare whole names, Python's urllib keeps the
 * brackets of IPv6, and only curl, Go and requests understand the prefix.
 */
const WITHOUT_PROXY = 'localhost,127.0.0.1,::1,[::1],127.0.0.0/8'

/**
 * How local programs prove their identity to the SOCKS and HTTP proxies, and the ports of those. Kept over restarts, because
 * instances that outlive the agent have it in their environment. The secret of each user is derived from one secret of the
 * node, so no list of them is kept.
 */
export class ProxyAccess {
  readonly socksPort: number
  readonly httpPort: number
  readonly #file: KeptFile
  readonly #secret: string

  private constructor(file: KeptFile, { secret, socksPort, httpPort }: Remembered) {
    this.#file = file
    this.#secret = secret
    this.socksPort = socksPort
    this.httpPort = httpPort
  }

  /** A damaged file is replaced: instances that start from now on get the new secret. */
  static open(file: KeptFile): ProxyAccess {
    const saved = file.readJson()
    const isGood = remembered.Check(saved)
    return new ProxyAccess(
      file,
      isGood ? saved : { secret: randomBytes(32).toString('hex'), socksPort: 0, httpPort: 0 },
    )
  }

  /** Saves the bound ports for the next start; where that cannot be done now, later. */
  async keep(ports: { socksPort: number; httpPort: number }): Promise<void> {
    await this.#file.put(JSON.stringify({ secret: this.#secret, ...ports }))
  }

  secretOf(user: string): string {
    return createHmac('sha256', this.#secret).update(user).digest('hex').slice(0, 32)
  }

  /** The variables by which ordinary HTTP and SOCKS clients find the proxies, in both spellings. */
  environment(user: string, ports: { socksPort: number; httpPort: number }): Record<string, string> {
    const credentials = `${encodeURIComponent(user)}:${this.secretOf(user)}`
    const http = `http://${credentials}@127.0.0.1:${ports.httpPort}`
    const all = `socks5h://${credentials}@127.0.0.1:${ports.socksPort}`
    return {
      HTTP_PROXY: http,
      http_proxy: http,
      ALL_PROXY: all,
      all_proxy: all,
      NO_PROXY: WITHOUT_PROXY,
      no_proxy: WITHOUT_PROXY,
      NODE_USE_ENV_PROXY: '1', // else Node 24 ignores the others
    }
  }
}
