import { randomBytes } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../src/core/errors.ts'
import { readBytes } from '../../src/core/kit/read-bytes.ts'
import type { NodeId } from '../../src/core/model/ids.ts'

/**
 * Connections that we have asked another node to make (reverse), or that both make (punched). Where a connection comes from
 * proves nothing: it is the expected one because the peer presents the nonce, inside TLS, under the certificate of the node that
 * was asked (SEC-25).
 *
 *     expect(node) ─▶ nonce ─signal─▶ the node ─▶ TLS to us ─▶ nonce ─▶ claim: once, by that node only
 */
export const NONCE_BYTES = 16
/** Expected at the same time; more is a bug or a flood. */
const MAX_EXPECTED = 256

export interface ExpectedConnection extends Disposable {
  readonly nonce: string
  /** Resolves with the connection, TLS done. */
  readonly arrived: Promise<Duplex>
}

export class ExpectedConnections {
  readonly #expected = new Map<string, { node: NodeId; resolve: (stream: Duplex) => void }>()

  get size(): number {
    return this.#expected.size
  }

  /** Disposing the result ends the wait. @throws MeshError NO_PATH when too many are expected */
  expect(node: NodeId, nonce: string = randomBytes(NONCE_BYTES).toString('hex')): ExpectedConnection {
    if (this.#expected.size >= MAX_EXPECTED || this.#expected.has(nonce))
      throw new MeshError('NO_PATH', { node, reason: 'too many connections are expected' })
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

  /** Whether the connection was expected; then it is handed to whoever expects it. */
  claim(peer: NodeId, nonce: string, stream: Duplex): boolean {
    const entry = this.#expected.get(nonce)
    if (entry?.node !== peer) return false
    this.#expected.delete(nonce)
    entry.resolve(stream)
    return true
  }
}

/** A connection that was accepted, and the node that TLS has proved. */
export interface Arrival {
  peer: NodeId
  stream: Duplex
  /** It begins with a nonce, by its ALPN protocol. */
  isCalled: boolean
}

/**
 * Hands an expected connection to whoever expects it; every other is returned.
 * @throws MeshError PEER_REFUSED when it claims to be expected and is not; it is closed then
 */
export async function claimIfExpected(
  expected: ExpectedConnections,
  { peer, stream, isCalled }: Arrival,
): Promise<Omit<Arrival, 'isCalled'> | undefined> {
  if (!isCalled) return { peer, stream }
  try {
    if (expected.claim(peer, await readNonce(stream), stream)) return undefined
    throw new MeshError('PEER_REFUSED', { node: peer, reason: 'this connection was not expected' })
  } catch (error) {
    stream.destroy()
    throw error
  }
}

/** Reads the first bytes of an expected connection; what follows stays in the stream. */
export async function readNonce(stream: Duplex): Promise<string> {
  const bytes = await readBytes(stream, NONCE_BYTES)
  if (bytes === undefined) throw new MeshError('PEER_REFUSED', { reason: 'it ended before its nonce' })
  return bytes.toString('hex')
}

export function presentNonce(stream: Duplex, nonce: string): void {
  stream.write(Buffer.from(nonce, 'hex'))
}
