import { createSocket, type Socket } from 'node:dgram'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'
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

/** RFC 6886 §3.1 doubles up to 64 s; a router that has not answered by then is asked again in the next round. */
const TRIES_MS = [250, 500, 1_000] as const

export type PortMappingProtocol = 'pcp' | 'nat-pmp' | 'upnp'
export type Outcome =
  | { kind: 'mapped'; dialect: PortMappingProtocol; mapped: Mapped }
  | { kind: 'refused'; reason: string }

export interface PcpClientOptions {
  gateway: string
  /** 5351, except in tests. */
  port?: number
  clock: Clock
}

/** Sends requests to one gateway, one after the other. The socket is connected: only the gateway's answers arrive. */
export class PcpClient implements AsyncDisposable {
  readonly #socket: Socket
  readonly #clock: Clock
  #onAnswer: ((answer: Answer) => void) | undefined

  private constructor(socket: Socket, clock: Clock) {
    this.#socket = socket
    this.#clock = clock
    socket.on('message', (packet) => {
      const answer = readAnswer(packet)
      if (answer !== undefined) this.#onAnswer?.(answer)
    })
    socket.on('error', ignore) // nothing listens there: the same as no answer
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

  /** Our address, as the gateway should see it. */
  get address(): string {
    return this.#socket.address().address
  }

  /** PCP first, and NAT-PMP where the router does not understand it (RFC 6887 appendix A). `known`: what it spoke before. */
  async map(
    request: MapRequest,
    nonce: Buffer,
    known: PortMappingProtocol | undefined,
    signal: AbortSignal,
  ): Promise<Outcome> {
    let reason = 'no answer'
    if (known !== 'nat-pmp') {
      const answer = await this.#request(
        encodePcp(request, { address: this.address, nonce }),
        (answer) =>
          (answer.kind === 'mapped' && answers(request, answer) && answer.nonce?.equals(nonce) === true) ||
          (answer.kind === 'refused' && (answer.protocol ?? request.protocol) === request.protocol),
        signal,
      )
      if (answer?.kind === 'mapped') return { kind: 'mapped', dialect: 'pcp', mapped: answer }
      if (answer?.kind === 'refused') ({ reason } = answer)
      if (answer?.kind === 'refused' && !answer.isForeign) return { kind: 'refused', reason }
      if (known === 'pcp') return { kind: 'refused', reason }
    }
    const answer = await this.#request(
      encodeNatPmp(request),
      (answer) =>
        (answer.kind === 'mapped' && answers(request, answer) && answer.nonce === undefined) ||
        (answer.kind === 'refused' && (answer.protocol ?? request.protocol) === request.protocol),
      signal,
    )
    if (answer?.kind === 'mapped')
      return { kind: 'mapped', dialect: 'nat-pmp', mapped: await this.#withAddress(answer, signal) }
    return { kind: 'refused', reason: answer?.kind === 'refused' ? answer.reason : reason }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return new Promise((resolve) => this.#socket.close(() => resolve()))
  }

  /** NAT-PMP gives the external address in a separate answer. */
  async #withAddress(mapped: Mapped, signal: AbortSignal): Promise<Mapped> {
    if (mapped.lifetimeSeconds === 0) return mapped
    const answer = await this.#request(encodeAddressRequest(), ({ kind }) => kind === 'address', signal)
    if (answer?.kind !== 'address') return mapped
    return { ...mapped, external: { ...mapped.external, address: answer.address } }
  }

  async #request(
    request: Buffer,
    isWanted: (answer: Answer) => boolean,
    signal: AbortSignal,
  ): Promise<Answer | undefined> {
    const arrived = new AbortController()
    let answer: Answer | undefined
    this.#onAnswer = (received) => {
      if (!isWanted(received)) return
      answer = received
      arrived.abort()
    }
    const limit = AbortSignal.any([signal, arrived.signal])
    for (const ms of TRIES_MS) {
      if (limit.aborted) break
      this.#socket.send(request, ignore)
      await this.#clock.sleep(ms, limit)
    }
    this.#onAnswer = undefined
    return answer
  }
}

function answers(request: MapRequest, answer: Mapped): boolean {
  return answer.protocol === request.protocol && answer.port === request.port
}
