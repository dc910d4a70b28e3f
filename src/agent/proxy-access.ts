import { createHmac, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Type, { type Static } from 'typebox'
import { Compile } from 'typebox/compile'

const Remembered = Type.Object({
  secret: Type.String({ pattern: '^[0-9a-f]{64}$' }),
  socksPort: Type.Integer(),
  httpPort: Type.Integer(),
})
type Remembered = Static<typeof Remembered>
const remembered = Compile(Remembered)

/**
 * How local programs prove who they are to the SOCKS and HTTP proxies, and where those listen. Kept over restarts, because
 * instances that outlive the agent hold it in their environment. The secret of a user is derived from one secret of the
 * node, so there is no list of them to keep.
 */
export class ProxyAccess {
  readonly socksPort: number
  readonly httpPort: number
  readonly #path: string
  readonly #secret: string

  private constructor(path: string, { secret, socksPort, httpPort }: Remembered) {
    this.#path = path
    this.#secret = secret
    this.socksPort = socksPort
    this.httpPort = httpPort
  }

  /** A damaged file is no loss: instances started from now on get the new secret. */
  static open(dir: string): ProxyAccess {
    const path = join(dir, 'proxies.json')
    return new ProxyAccess(path, read(path) ?? { secret: randomBytes(32).toString('hex'), socksPort: 0, httpPort: 0 })
  }

  /** Writes down the ports that were bound, for the next start. */
  async keep(ports: { socksPort: number; httpPort: number }): Promise<void> {
    await writeFile(this.#path, JSON.stringify({ secret: this.#secret, ...ports }), { mode: 0o600 })
  }

  secretOf(user: string): string {
    return createHmac('sha256', this.#secret).update(user).digest('hex').slice(0, 32)
  }

  /** What makes ordinary HTTP and SOCKS clients reach semantic names, in both spellings. */
  environment(user: string, ports: { socksPort: number; httpPort: number }): Record<string, string> {
    const credentials = `${encodeURIComponent(user)}:${this.secretOf(user)}`
    const http = `http://${credentials}@127.0.0.1:${ports.httpPort}`
    const all = `socks5h://${credentials}@127.0.0.1:${ports.socksPort}`
    const none = 'localhost,127.0.0.0/8,::1'
    return {
      HTTP_PROXY: http,
      http_proxy: http,
      ALL_PROXY: all,
      all_proxy: all,
      NO_PROXY: none,
      no_proxy: none,
      NODE_USE_ENV_PROXY: '1', // Node 24 reads the others only then
    }
  }
}

function read(path: string): Remembered | undefined {
  try {
    const content: unknown = JSON.parse(readFileSync(path, 'utf8'))
    return remembered.Check(content) ? content : undefined
  } catch {
    return undefined
  }
}
