import type { Duplex } from 'node:stream'
import { MeshError } from '../../../src/core/errors.ts'
import { readBytes } from '../../../src/core/kit/read-bytes.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { SessionKey } from '../session/identity.ts'
import { FRAME, HEADER_BYTES, MAX_HELLO_BYTES } from '../wire/frame.ts'
import { decodeHello, type Hello } from '../wire/hello.ts'

/*
 * A node that was restarted for an upgrade runs twice for a while, and only the new process is connected to: by its listener,
 * at its relays. A carrier for a session of the old one arrives there too, whichever path it took, and is passed on.
 *
 *     old process of A             new process of B                     old process of B
 *       │── TLS, HELLO with session s ──▶│ s is not ours: who has it?        │
 *       │                                │── peer, path, HELLO ─────────────▶│  has s with that peer and incarnation
 *       │◀═════════════ HELLO, RESUME ═══╪═══════════════════════════════════│
 *
 * TLS ends at the process that accepted; the bytes go on through a socket that only this user may open.
 */

/** A session, by what no other session has. */
export interface HeldSession extends SessionKey {
  peer: NodeId
}

export function isSameSession(one: HeldSession, other: HeldSession): boolean {
  return one.peer === other.peer && one.id === other.id && one.incarnation === other.incarnation
}

/** A proven connection whose HELLO has been read. */
export interface PassedConnection {
  session: HeldSession
  path: PathKind
  /** As of the RawConnection. */
  via: string
  stream: Duplex
  /** The frame with HELLO. */
  hello: Buffer
}

/** The other processes of this node, which finish their flows. */
export interface EarlierProcesses {
  /** Whether one of them has a session with the node. */
  knows(peer: NodeId): boolean
  /** Passes the connection to the process that has the session. False when none has it; nothing has been done then. */
  take(connection: PassedConnection): Promise<boolean>
}

/** The first frame of a connection, and HELLO if it is one. */
export interface Greeting {
  frame: Buffer
  hello: Hello | undefined
}

/** Reads the first frame; it can be put back. @throws MeshError SESSION_CLOSED when the connection ends before */
export async function readGreeting(stream: Duplex): Promise<Greeting> {
  const frame = await readFrame(stream)
  return { frame, hello: helloIn(frame) }
}

/** The first frame, or as much of it as shows that it is no HELLO. */
async function readFrame(stream: Duplex): Promise<Buffer> {
  const header = await readBytes(stream, HEADER_BYTES)
  if (header === undefined) throw ended()
  const length = header.readUIntBE(1, 3)
  if (header[0] !== FRAME.HELLO || length > MAX_HELLO_BYTES) return header
  const payload = await readBytes(stream, length)
  if (payload === undefined) throw ended()
  return Buffer.concat([header, payload])
}

function ended(): MeshError {
  return new MeshError('SESSION_CLOSED', { reason: 'the connection ended before HELLO' })
}

/** `undefined`: the handshake will say what is wrong with it. */
function helloIn(frame: Buffer): Hello | undefined {
  if (frame.length <= HEADER_BYTES) return undefined
  try {
    return decodeHello(frame.subarray(HEADER_BYTES))
  } catch {
    return undefined
  }
}
