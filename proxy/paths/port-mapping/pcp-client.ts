import { createSocket, type Socket } from 'node:dgram'
import type { Clock } from '../../../src/core/kit/clock.ts'
import {
  encodeAddressRequest,
  encodeNatPmp,
  encodePcp,
  PORT_MAPPING_PORT,
  readAnswer,
  type Answer,
  type Mapped,
  type MapRequest,
} from './codec.ts'

/** RFC 6886 §3.1 doubles up to 64 s; a router that has not answered by then is asked again with the next round. */
const TRIES_MS = [250, 500, 1_000] as const

export type PortMappingProtocol = 'pcp' | 'nat-pmp' | 'upnp'
export type Outcome =
  | { kind: 'mapped'; dialect: PortMappingProtocol; mapped: Mapped }
  | { kind: 'refused'; reason: string }

export interface PcpClientOptions {
  gateway: string
  /** 5351, but in tests. */
  port?: number
  clock: Clock
}

/** Questions to one gateway, one after the other; only that hears them, and only its answers count (a connected socket). */
export class PcpClient implements AsyncDisposable {
  readonly #socket: Socket
  readonly #clock: Clock
  #hear: ((answer: Answer) => void) | undefined

  private constructor(socket: Socket, clock: Clock) {
    this.#socket = socket
    this.#clock = clock
    socket.on('message', (packet) => {
      const answer = readAnswer(packet)
      if (answer !== undefined) this.#hear?.(answer)
    })
    socket.on('error', () => undefined) // nobody listens there: the same as no answer
  }

  /** @throws any error when there is no way to the gateway */
  static open({ gateway, port = PORT_MAPPING_PORT, clock }: PcpClientOptions): Promise<PcpClient> {
    const socket = createSocket('udp4')
    return new Promise((resolve, reject) => {
      socket.once('error', (error) => {
        socket.close()
        reject(error)
      })
      socket.connect(port, gateway, () => {
        socket.removeAllListeners('error')
        resolve(new PcpClient(socket, clock))
      })
    })
  }

  /** Ours, as the gateway should see it. */
  get address(): string {
    return this.#socket.address().address
  }

  /** PCP first, and NAT-PMP where nobody understands that (RFC 6887 appendix A). */
  async map(
    request: MapRequest,
    nonce: Buffer,
    known: PortMappingProtocol | undefined,
    signal: AbortSignal,
  ): Promise<Outcome> {
    let reason = 'no answer'
    if (known !== 'nat-pmp') {
      const answer = await this.#ask(
        encodePcp(request, { address: this.address, nonce }),
        (answer) =>
          (answer.kind === 'mapped' && isAnswerTo(request, answer) && answer.nonce?.equals(nonce) === true) ||
          (answer.kind === 'refused' && (answer.protocol ?? request.protocol) === request.protocol),
        signal,
      )
      if (answer?.kind === 'mapped') return { kind: 'mapped', dialect: 'pcp', mapped: answer }
      if (answer?.kind === 'refused') ({ reason } = answer)
      if (answer?.kind === 'refused' && !answer.isForeign) return { kind: 'refused', reason }
      if (known === 'pcp') return { kind: 'refused', reason }
    }
    const answer = await this.#ask(
      encodeNatPmp(request),
      (answer) =>
        (answer.kind === 'mapped' && isAnswerTo(request, answer) && answer.nonce === undefined) ||
        (answer.kind === 'refused' && (answer.protocol ?? request.protocol) === request.protocol),
      signal,
    )
    if (answer?.kind === 'mapped')
      return { kind: 'mapped', dialect: 'nat-pmp', mapped: await this.#located(answer, signal) }
    return { kind: 'refused', reason: answer?.kind === 'refused' ? answer.reason : reason }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return new Promise((resolve) => this.#socket.close(() => resolve()))
  }

  /** NAT-PMP says the address apart. */
  async #located(mapped: Mapped, signal: AbortSignal): Promise<Mapped> {
    if (mapped.lifetimeSeconds === 0) return mapped
    const answer = await this.#ask(encodeAddressRequest(), ({ kind }) => kind === 'address', signal)
    if (answer?.kind !== 'address') return mapped
    return { ...mapped, external: { ...mapped.external, address: answer.address } }
  }

  async #ask(
    question: Buffer,
    isWanted: (answer: Answer) => boolean,
    signal: AbortSignal,
  ): Promise<Answer | undefined> {
    const got = new AbortController()
    let answer: Answer | undefined
    this.#hear = (heard) => {
      if (!isWanted(heard)) return
      answer = heard
      got.abort()
    }
    const over = AbortSignal.any([signal, got.signal])
    for (const ms of TRIES_MS) {
      if (over.aborted) break
      this.#socket.send(question, () => undefined)
      await this.#clock.sleep(ms, over)
    }
    this.#hear = undefined
    return answer
  }
}

function isAnswerTo(request: MapRequest, answer: Mapped): boolean {
  return answer.protocol === request.protocol && answer.port === request.port
}
