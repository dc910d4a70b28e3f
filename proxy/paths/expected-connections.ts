import { randomBytes } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../src/core/errors.ts'
import type { NodeId } from '../../src/core/model/ids.ts'

/**
 * Connections that we have asked another node for, and that it makes to us (reverse), or that both make (punched). Where one comes
 * from proves nothing: it belongs to what was asked because the caller presents the nonce, inside TLS, under the certificate of
 * the node that was asked (SEC-25).
 *
 *     expect(node) ─▶ nonce ─signal─▶ the node ─▶ TLS to us ─▶ nonce ─▶ claim: once, by that node only
 */
export const NONCE_BYTES = 16
/** Being waited for at once; more is a bug or a storm. */
const MAX_EXPECTED = 256

export interface ExpectedConnection extends Disposable {
  readonly nonce: string
  /** The connection, secured. */
  readonly arrived: Promise<Duplex>
}

export class ExpectedConnections {
  readonly #expected = new Map<string, { node: NodeId; resolve: (stream: Duplex) => void }>()

  get size(): number {
    return this.#expected.size
  }

  /** @throws MeshError NO_PATH when too many are waited for. */
  expect(node: NodeId, nonce: string = randomBytes(NONCE_BYTES).toString('hex')): ExpectedConnection {
    if (this.#expected.size >= MAX_EXPECTED || this.#expected.has(nonce))
      throw new MeshError('NO_PATH', { node, reason: 'too many calls are waited for' })
    const { promise, resolve } = Promise.withResolvers<Duplex>()
    const entry = { node, resolve }
    this.#expected.set(nonce, entry)
    return {
      nonce,
      arrived: promise,
      [Symbol.dispose]: () => {
        if (this.#expected.get(nonce) === entry) this.#expected.delete(nonce)
      },
    }
  }

  /** Whether the connection was waited for; it has another owner then. */
  claim(peer: NodeId, nonce: string, stream: Duplex): boolean {
    const entry = this.#expected.get(nonce)
    if (entry?.node !== peer) return false
    this.#expected.delete(nonce)
    entry.resolve(stream)
    return true
  }
}

/** A connection that has come, and whom TLS has proved. */
export interface Arrival {
  peer: NodeId
  stream: Duplex
  /** It begins with a nonce. */
  isCalled: boolean
}

/**
 * Gives a connection that we have called for to who waits for it; all others are returned.
 * @throws MeshError PEER_REFUSED when it pretends to be called for; it is closed then
 */
export async function claimIfExpected(
  calls: ExpectedConnections,
  { peer, stream, isCalled }: Arrival,
): Promise<Omit<Arrival, 'isCalled'> | undefined> {
  if (!isCalled) return { peer, stream }
  try {
    if (calls.claim(peer, await readNonce(stream), stream)) return undefined
    throw new MeshError('PEER_REFUSED', { node: peer, reason: 'nobody has called for this connection' })
  } catch (error) {
    stream.destroy()
    throw error
  }
}

/** The first bytes on a connection that was called for; what follows stays in the stream. */
export function readNonce(stream: Duplex): Promise<string> {
  return new Promise((resolve, reject) => {
    const look = () => {
      const bytes = stream.read(NONCE_BYTES) as Buffer | null
      if (bytes === null) return
      stop()
      if (bytes.length === NONCE_BYTES) resolve(bytes.toString('hex'))
      else ended()
    }
    const ended = () => {
      stop()
      reject(new MeshError('PEER_REFUSED', { reason: 'it did not say what it was called for' }))
    }
    const stop = () => {
      stream.off('readable', look)
      for (const event of ['end', 'close', 'error']) stream.off(event, ended)
    }
    stream.on('readable', look)
    for (const event of ['end', 'close', 'error']) stream.on(event, ended)
    look()
  })
}

export function presentNonce(stream: Duplex, nonce: string): void {
  stream.write(Buffer.from(nonce, 'hex'))
}
