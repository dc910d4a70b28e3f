import type { Duplex } from 'node:stream'
import type { RawConnection } from '../../proxy/paths/contract.ts'
import type { DirectDialer } from '../../proxy/paths/direct-path.ts'
import { presentNonce, type Arrival } from '../../proxy/paths/expected-connections.ts'
import { isMeshError, MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity/contract.ts'
import { CALLED_ALPN, connectSecure, createAcceptor, isPrompt } from '../core/identity/peer-tls.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { NodeSecure } from './rendezvous.ts'

/** TLS between nodes, on every path. Certificates that were revoked are refused in both directions. */
export class NodeTls implements NodeSecure {
  readonly isPrompt = isPrompt
  readonly #identity: Identity
  readonly #direct: DirectDialer
  readonly #acceptor: ReturnType<typeof createAcceptor>

  constructor(identity: Identity, direct: DirectDialer, life: Lifetime) {
    this.#identity = identity
    this.#direct = direct
    this.#acceptor = life.use(createAcceptor(identity))
  }

  /** As the one who dials. @throws MeshError PEER_REFUSED when another node answers, or a revoked one */
  readonly connect = async (
    { stream, path, via, proven }: RawConnection,
    node: NodeId,
    signal: AbortSignal,
  ): Promise<Duplex> => {
    if (proven === node) return stream
    if (proven !== undefined) throw new MeshError('PEER_REFUSED', { node, answered: proven })
    try {
      return await connectSecure(stream, this.#identity, node, signal)
    } catch (error) {
      // another site's equal private address: not to be tried first again
      if (path === 'direct' && isMeshError(error, 'PEER_REFUSED')) this.#direct.distrust(node, via)
      throw error
    }
  }

  /** As the one who dials because the other asked for it: the nonce tells which request this answers. */
  readonly present = async (
    { stream }: RawConnection,
    node: NodeId,
    nonce: string,
    signal: AbortSignal,
  ): Promise<Duplex> => {
    const secured = await connectSecure(stream, this.#identity, node, signal, CALLED_ALPN)
    presentNonce(secured, nonce)
    return secured
  }

  /** As the one who is dialled. */
  readonly accept = async ({ stream, proven }: RawConnection): Promise<Arrival> =>
    proven === undefined ? this.#acceptor.accept(stream) : { peer: proven, stream, isCalled: false }
}
