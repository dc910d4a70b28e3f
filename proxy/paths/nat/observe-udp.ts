import type { Clock } from '../../../src/core/kit/clock.ts'
import { ASK, decodeAnswer, encodeAnswer, encodeQuestion, type ObservedAt } from '../../relay/wire/observation.ts'
import { filteringOf, mappingOf, UNKNOWN_NAT, type NatClass } from './nat-behavior.ts'
import { gather, questionFor, type ObserverAddress } from './observers.ts'
import { printHostPort, type HostPort } from '../../../src/core/kit/host-port.ts'

/** Sends from the port that is asked about. */
export type Send = (bytes: Buffer, to: HostPort) => void

/** Asked so often at most, as a datagram may be lost; the waits between. */
const TRIES_MS = [400, 800, 1_200] as const

/** Questions from one UDP port, and what comes back to it: nothing counts but an answer with a token that is waited for. */
export class UdpQuestions {
  readonly #send: Send
  readonly #clock: Clock
  readonly #waiting = new Map<string, (answer: ObservedAt) => void>()

  constructor(send: Send, clock: Clock) {
    this.#send = send
    this.#clock = clock
  }

  /** A packet that may be an answer; false when it is not. */
  hear(packet: Buffer): boolean {
    const answer = decodeAnswer(packet)
    if (answer === undefined) return false
    this.#waiting.get(answer.token)?.(answer)
    return true
  }

  ask(place: ObserverAddress, what: number, signal: AbortSignal): Promise<ObservedAt | undefined> {
    const question = questionFor(place, what)
    return this.answered(question.token, () => this.#send(encodeQuestion(question), place), signal)
  }

  /** A packet of ours that carries a token, on its way to ourselves. */
  knock(token: string, to: HostPort): void {
    this.#send(encodeAnswer({ ...to, token, heard: undefined }), to)
  }

  /** Says something until the token comes back; `undefined` when it does not. */
  async answered(token: string, say: () => void, signal: AbortSignal): Promise<ObservedAt | undefined> {
    const got = new AbortController()
    let answer: ObservedAt | undefined
    this.#waiting.set(token, (heard) => {
      answer = heard
      got.abort()
    })
    const limit = AbortSignal.any([got.signal, signal])
    for (const ms of TRIES_MS) {
      if (limit.aborted) break
      say()
      await this.#clock.sleep(ms, limit)
    }
    this.#waiting.delete(token)
    return answer
  }
}

/** What a look at one family of the network by UDP shows. */
export interface UdpObservation {
  readonly nat: NatClass
  /** Where others see the port; absent while that differs for each, or is not known. */
  readonly address?: string
}

/** `before`: whom the NAT lets in is not asked again while its mapping is the same. */
export async function observeUdp(
  questions: UdpQuestions,
  { places, isOwn, before }: { places: readonly ObserverAddress[]; isOwn: (host: string) => boolean; before: NatClass },
  signal: AbortSignal,
): Promise<UdpObservation> {
  const answers = await gather(
    places.map((place) => (late) => questions.ask(place, ASK.where, late)),
    signal,
  )
  const seen = answers.filter((answer) => answer !== undefined)
  const [first] = seen
  const place = places[answers.findIndex((answer) => answer !== undefined)]
  if (first === undefined || place === undefined) return { nat: UNKNOWN_NAT }
  const mapping = mappingOf(seen, isOwn)
  if (mapping === 'varies') return { nat: { mapping, filtering: 'unknown' } }
  const isKnown = before.mapping === mapping && before.filtering !== 'unknown'
  const filtering = isKnown
    ? before.filtering
    : filteringOf((await questions.ask(place, ASK.elsewhere, signal)) !== undefined)
  return { nat: { mapping, filtering }, address: printHostPort(first.host, first.port) }
}
