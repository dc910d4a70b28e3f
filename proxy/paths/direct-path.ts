import { lookup } from 'node:dns/promises'
import { createServer, isIP, type AddressInfo, type BoundSocket, type Server } from 'node:net'
import { MeshError } from '../../src/core/errors.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { closeWhenIdle } from '../../src/core/kit/close-when-idle.ts'
import { race } from '../../src/core/kit/race.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { bindShared, type SharedAddress } from '../../src/core/kit/bind-shared.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { NodeReach } from '../../src/core/model/node.ts'
import { isDialable, type Exclude } from './addresses.ts'
import type { Dialer, RawConnection } from './contract.ts'
import { dialTcp } from './dial-tcp.ts'
import { reachabilityOf, type OwnNetwork } from './reachability.ts'
import { parseHostPort, printHostPort } from '../../src/core/kit/host-port.ts'
import { BoundedMap } from '../../src/core/kit/bounded-map.ts'

/** How long one address is alone before the next is dialled beside it (RFC 8305 §5 allows 100 ms to 2 s). */
const STAGGER_MS = 150
/**
 * When no address has answered by then, all are dialled once more, beside the attempts that still wait: the system itself
 * retransmits a SYN after 1, 3 and 7 s only, and a node that has come back should not wait for that.
 */
const AGAIN_MS = 1_000
/** Attempts of one dial, repetitions included. */
const MAX_ATTEMPTS = 12
/** Addresses of one node that are used; the rest is ignored. Larger lets one node make others send more SYNs. */
const MAX_CANDIDATES = 12
/** How long an address at which the wrong machine answered is tried last. */
const DISTRUST_MS = 10 * 60_000
const MAX_DISTRUSTED = 1_024

export interface DirectDialer extends Dialer {
  /**
   * Another node answered at this address (another site's 192.168.1.5): it is tried last for a while. Called after the
   * handshake has shown it; `via` is that of the RawConnection.
   */
  distrust(node: NodeId, via: string): void
}

export interface DirectDialerOptions {
  exclude?: Exclude
  /** Whether we listen there ourselves: a node of another site may list the same private address, and we would answer. */
  isOwn?: (host: string, port: number) => boolean
  ownNetwork?: () => OwnNetwork
  clock?: Clock
}

/** Dials the addresses of a node, each a little after the one before; the first that answers wins. */
export function directDialer(options: DirectDialerOptions = {}): DirectDialer {
  const { exclude = () => false, isOwn = () => false, ownNetwork, clock = systemClock } = options
  const distrusted = new BoundedMap<string, number>(MAX_DISTRUSTED)
  const isDistrusted = (node: NodeId, via: string) => (distrusted.get(`${node} ${via}`) ?? -Infinity) > clock.now()
  return {
    path: 'direct',
    suits: ({ addresses }) => addresses.some((address) => parseHostPort(address) !== undefined),
    reachability: ({ addresses }) => (ownNetwork === undefined ? 'open' : reachabilityOf(addresses, ownNetwork())),
    dial: async ({ id, addresses }: NodeReach, signal) => {
      const hairpins = ownNetwork?.().hairpins
      const doubts = ({ host, via }: Candidate) => Number(isDistrusted(id, via) || hairpins?.(host) === false)
      const candidates = (await resolve(addresses, { exclude, isOwn })).toSorted((a, b) => doubts(a) - doubts(b))
      if (candidates.length === 0) throw new MeshError('NO_PATH', { node: id, reason: 'no address to dial', addresses })
      return dialFirst(candidates, clock, signal)
    },
    distrust: (node, via) => void distrusted.set(`${node} ${via}`, clock.now() + DISTRUST_MS),
  }
}

interface Candidate {
  host: string
  port: number
  via: string
}

/** Names are resolved here, so that an excluded address cannot come in by a name. */
async function resolve(
  addresses: readonly string[],
  { exclude, isOwn }: Required<Pick<DirectDialerOptions, 'exclude' | 'isOwn'>>,
): Promise<Candidate[]> {
  const parsed = addresses.map(parseHostPort).filter((candidate) => candidate !== undefined)
  const resolved = await Promise.all(
    parsed.slice(0, MAX_CANDIDATES).map(async ({ host, port }) => {
      const hosts = isIP(host) === 0 ? await lookup(host, { all: true }).catch(() => []) : [{ address: host }]
      return hosts.map(({ address }) => ({ host: address, port, via: printHostPort(address, port) }))
    }),
  )
  return resolved
    .flat()
    .filter(({ host, port }) => isDialable(host) && !exclude(host) && !isOwn(host, port))
    .slice(0, MAX_CANDIDATES)
}

async function dialFirst(candidates: readonly Candidate[], clock: Clock, signal: AbortSignal): Promise<RawConnection> {
  const rounds = Array.from({ length: Math.ceil(MAX_ATTEMPTS / candidates.length) }, (_, round) =>
    candidates.map((candidate, i) => ({
      aloneMs: i + 1 < candidates.length ? STAGGER_MS : AGAIN_MS,
      isRepeat: round > 0,
      run: (limit: AbortSignal) => dialTcp(candidate, limit),
    })),
  )
  const discard = ({ stream }: RawConnection) => stream.destroy()
  try {
    return await race(rounds.flat().slice(0, MAX_ATTEMPTS), { clock, discard }, signal)
  } catch (error) {
    if (!(error instanceof AggregateError)) throw error
    throw new MeshError('NO_PATH', { tried: Object.assign({}, ...error.errors.map(failureOf)) as unknown })
  }
}

function failureOf(error: unknown): Record<string, unknown> {
  const { details, cause } = error as MeshError
  const { code, message } = cause as NodeJS.ErrnoException
  return { [String(details['address'])]: code ?? message }
}

/** Accepts the connections that other nodes dial; they are not authenticated yet. */
export class DirectListener implements AsyncDisposable {
  readonly #server: Server

  private constructor(server: Server) {
    this.#server = server
  }

  /** @throws MeshError LISTEN_FAILED */
  static async start(
    { host, port, ...beside }: SharedAddress,
    onConnection: (raw: RawConnection) => void,
    log: Log,
  ): Promise<DirectListener> {
    const bound = await bindAt({ host, port, ...beside })
    return new Promise((resolve, reject) => {
      const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
        socket.on('error', () => socket.destroy())
        const via = printHostPort(socket.remoteAddress ?? '', socket.remotePort ?? 0)
        onConnection({ path: 'direct', stream: socket, via })
      })
      const failed = (cause: Error) =>
        reject(new MeshError('LISTEN_FAILED', { address: printHostPort(host, port) }, { cause }))
      server.once('error', failed)
      server.listen(bound, () => {
        server.off('error', failed)
        server.on('error', (error) => log.warn('could not accept a connection from a node', { error }))
        resolve(new DirectListener(server))
      })
    })
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  /** Accepts no more; connections that were handed over go on. */
  [Symbol.asyncDispose](): Promise<void> {
    return closeWhenIdle([this.#server], 'connection')
  }
}

/** Binds; a name stands for its first address. @throws MeshError LISTEN_FAILED */
async function bindAt({ host, ...rest }: SharedAddress): Promise<BoundSocket> {
  try {
    return bindShared({ host: isIP(host) === 0 ? (await lookup(host)).address : host, ...rest })
  } catch (cause) {
    throw new MeshError('LISTEN_FAILED', { address: printHostPort(host, rest.port) }, { cause })
  }
}
