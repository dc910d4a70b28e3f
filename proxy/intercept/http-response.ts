import type { AnswerVerdict } from '../flow/flow.ts'

/** `HTTP/1.1 101`: what must have come to decide. */
const NEEDED = 'HTTP/1.1 101'.length

/**
 * Looks at the first bytes that an instance answers to a forwarded request, and at nothing else (SEC-16). An answer that is
 * not HTTP/1 (a server that speaks only HTTP/2) becomes 502; `101 Switching Protocols` makes the connection a tunnel.
 */
export class ResponseStart {
  readonly #badGateway: (reason: string) => Buffer
  #bytes = ''

  constructor(badGateway: (reason: string) => Buffer) {
    this.#badGateway = badGateway
  }

  push(chunk: Buffer): AnswerVerdict {
    this.#bytes += chunk.toString('latin1', 0, NEEDED - this.#bytes.length)
    if (!'HTTP/1.'.startsWith(this.#bytes.slice(0, 7)))
      return { kind: 'replace', message: this.#badGateway('the instance does not answer with HTTP/1.1') }
    if (this.#bytes.length < NEEDED) return { kind: 'undecided' }
    return { kind: /^HTTP\/1\.[01] 101/.test(this.#bytes) ? 'tunnel' : 'pass' }
  }

  /** The instance has closed without a complete status line. */
  end(): Buffer {
    return this.#badGateway('the instance closed the connection without an answer')
  }
}
