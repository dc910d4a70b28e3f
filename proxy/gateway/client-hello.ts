/*
 * The host name that a TLS client asks for, read from its first message without taking part in the handshake (RFC 8446 §4.1.2,
 * RFC 6066 §3). Bytes in, a verdict out:
 *
 *   record    16 03 xx length │ fragment          one or more records hold the message
 *   message   01 length │ version, random 32, session id, cipher suites, compression, extensions
 *   extension 0000 length │ list length │ 00 length name
 *
 *   more ──▶ more ──▶ … ──▶ hello     with or without a name
 *                      └──▶ invalid   not TLS, or not a ClientHello, or too long
 *
 * Everything that follows is carried as it came: what was read here is sent on as well.
 */

export type HelloVerdict =
  | { kind: 'more' }
  /** `name` is in lower case; absent: the client names no host, or an address. */
  | { kind: 'hello'; name?: string }
  | { kind: 'invalid'; reason: string }

/** Of the whole message. Clients with post-quantum keys and many extensions send 2 to 4 KiB. Larger: strangers can make us hold more. */
export const HELLO_LIMIT = 16 * 1024

const HANDSHAKE = 22
const CLIENT_HELLO = 1
const RECORD_HEAD = 5
const MESSAGE_HEAD = 4
/** RFC 8446 §5.1: a record holds at most 2^14 bytes of plaintext. */
const RECORD_LIMIT = 16_384
const SERVER_NAME = 0
const HOST_NAME = 0
const HOST_LIMIT = 253

/** Reads what has come so far, from the first byte of the connection. */
export function readClientHello(bytes: Buffer): HelloVerdict {
  const message = messageIn(bytes)
  if (!Buffer.isBuffer(message)) return message
  const name = nameIn(message)
  if (name === MALFORMED) return invalid('a malformed ClientHello')
  return name === undefined ? { kind: 'hello' } : { kind: 'hello', name }
}

/** The body of the ClientHello, put together from its records. */
function messageIn(bytes: Buffer): Buffer | HelloVerdict {
  const fragments: Buffer[] = []
  let held = 0
  for (let at = 0; ; ) {
    const left = bytes.length - at
    if (left > 0 && bytes[at] !== HANDSHAKE) return invalid(at === 0 ? 'not TLS' : 'not a ClientHello')
    if (left > 1 && bytes[at + 1] !== 3) return invalid('not TLS')
    if (left < RECORD_HEAD) return MORE
    const length = bytes.readUInt16BE(at + 3)
    if (length === 0 || length > RECORD_LIMIT) return invalid('a malformed TLS record')
    const fragment = bytes.subarray(at + RECORD_HEAD, at + RECORD_HEAD + length)
    fragments.push(fragment)
    held += fragment.length
    const whole = wholeMessage(fragments, held)
    if (whole !== undefined) return whole
    if (fragment.length < length) return MORE
    at += RECORD_HEAD + length
  }
}

/** `undefined`: the next record is needed. */
function wholeMessage(fragments: readonly Buffer[], held: number): Buffer | HelloVerdict | undefined {
  const [first = EMPTY] = fragments
  if (first.length > 0 && first[0] !== CLIENT_HELLO) return invalid('not a ClientHello')
  if (held < MESSAGE_HEAD) return undefined
  const bytes = fragments.length === 1 ? first : Buffer.concat(fragments)
  const length = bytes.readUIntBE(1, 3)
  if (length > HELLO_LIMIT) return invalid(`a ClientHello of more than ${HELLO_LIMIT} bytes`)
  return bytes.length < MESSAGE_HEAD + length ? undefined : bytes.subarray(MESSAGE_HEAD, MESSAGE_HEAD + length)
}

const EMPTY = Buffer.alloc(0)
const MORE: HelloVerdict = { kind: 'more' }
const MALFORMED = Symbol('malformed')

/** `undefined`: there is no name in it. */
function nameIn(body: Buffer): string | undefined | typeof MALFORMED {
  const reader = new Reader(body)
  reader.skip(2 + 32) // version, random
  reader.vector(1) // session id
  reader.vector(2) // cipher suites
  reader.vector(1) // compression methods
  if (reader.isAtEnd) return undefined // TLS 1.2 without extensions
  const extensions = reader.vector(2)
  if (extensions === undefined || !reader.isAtEnd) return MALFORMED
  const list = new Reader(extensions)
  let name: string | undefined
  while (!list.isAtEnd) {
    const type = list.number(2)
    const content = list.vector(2)
    if (type === undefined || content === undefined) return MALFORMED
    if (type !== SERVER_NAME) continue
    if (name !== undefined) return MALFORMED // two readers could take different ones
    const found = hostIn(content)
    if (found === MALFORMED) return MALFORMED
    name = found
  }
  return name === '' ? undefined : name
}

/** The one host name of the extension; empty for a name that is an address, which RFC 6066 §3 does not permit. */
function hostIn(content: Buffer): string | typeof MALFORMED {
  const reader = new Reader(content)
  const names = reader.vector(2)
  if (names === undefined || !reader.isAtEnd) return MALFORMED
  const entry = new Reader(names)
  const type = entry.number(1)
  const bytes = entry.vector(2)
  if (type !== HOST_NAME || bytes === undefined || !entry.isAtEnd) return MALFORMED
  if (bytes.length === 0 || bytes.length > HOST_LIMIT) return MALFORMED
  const name = bytes.toString('latin1').toLowerCase()
  if (/^[0-9.]+$|:/.test(name)) return ''
  return /^[a-z0-9_-]+(\.[a-z0-9_-]+)*$/.test(name) ? name : MALFORMED
}

/** Reads numbers and length-prefixed parts; what does not fit is `undefined`, and so is all after it. */
class Reader {
  readonly #bytes: Buffer
  #at = 0
  #isBroken = false

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get isAtEnd(): boolean {
    return !this.#isBroken && this.#at === this.#bytes.length
  }

  skip(bytes: number): void {
    this.#take(bytes)
  }

  number(bytes: 1 | 2): number | undefined {
    const part = this.#take(bytes)
    return part === undefined ? undefined : part.readUIntBE(0, bytes)
  }

  /** A part whose length comes before it. */
  vector(lengthBytes: 1 | 2): Buffer | undefined {
    const length = this.number(lengthBytes)
    return length === undefined ? undefined : this.#take(length)
  }

  #take(bytes: number): Buffer | undefined {
    if (this.#isBroken || this.#at + bytes > this.#bytes.length) {
      this.#isBroken = true
      return undefined
    }
    this.#at += bytes
    return this.#bytes.subarray(this.#at - bytes, this.#at)
  }
}

function invalid(reason: string): HelloVerdict {
  return { kind: 'invalid', reason }
}
