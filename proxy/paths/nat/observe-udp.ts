import type { Clock } from '../../../src/core/kit/clock.ts'
import { printHostPort, type HostPort } from '../../../src/core/kit/host-port.ts'
import { ASK, decodeAnswer, encodeAnswer, encodeQuestion, type ObservedAt } from '../../relay/wire/observation.ts'
import { filteringOf, isMappingDependent, mappingOf, UNKNOWN_NAT, type NatBehavior } from './nat-behavior.ts'
import { newQuestion, queryAll, type ObserverAddress } from './observers.ts'

/** Sends from the port that the query is about. */
export type Send = (bytes: Buffer, to: HostPort) => void

/** A datagram may be lost: how often it is sent, and the wait after each. */
const TRIES_MS = [400, 800, 1_200] as const

/** Queries from one UDP port. An answer counts only if it carries a token that is being waited for. */
export class UdpQueries {
  readonly #send: Send
  readonly #clock: Clock
  readonly #waiting = new Map<string, (answer: ObservedAt) => void>()

  constructor(send: Send, clock: Clock) {
    this.#send = send
    this.#clock = clock
  }

  /** Takes a packet that arrived at the port; false when it is no answer. */
  receive(packet: Buffer): boolean {
    const answer = decodeAnswer(packet)
    if (answer === undefined) return false
    this.#waiting.get(answer.token)?.(answer)
    return true
  }

  query(observer: ObserverAddress, ask: number, signal: AbortSignal): Promise<ObservedAt | undefined> {
    const question = newQuestion(observer, ask)
    return this.awaitToken(question.token, () => this.#send(encodeQuestion(question), observer), signal)
  }

  /** Sends a token to ourselves, by way of the address outside. */
  sendToken(token: string, to: HostPort): void {
    this.#send(encodeAnswer({ ...to, token, heard: undefined }), to)
  }

  /** Calls `send`, a few times, until the token arrives; `undefined` when it does not. */
  async awaitToken(token: string, send: () => void, signal: AbortSignal): Promise<ObservedAt | undefined> {
    const arrived = new AbortController()
    let answer: ObservedAt | undefined
    this.#waiting.set(token, (received) => {
      answer = received
      arrived.abort()
    })
    const limit = AbortSignal.any([arrived.signal, signal])
    for (const ms of TRIES_MS) {
      if (limit.aborted) break
      send()
      await this.#clock.sleep(ms, limit)
    }
    this.#waiting.delete(token)
    return answer
  }
}

/** What was observed of one address family by UDP. */
export interface UdpObservation {
  readonly nat: NatBehavior
  /** Where others see the port; absent when that is not known, or differs for each peer. */
  readonly address?: string
}

export interface UdpProbe {
  observers: readonly ObserverAddress[]
  isOwn: (host: string) => boolean
  /** The observation before: while the mapping stays the same, the filtering is not probed again. */
  before: NatBehavior
}

export async function observeUdp(
  queries: UdpQueries,
  { observers, isOwn, before }: UdpProbe,
  signal: AbortSignal,
): Promise<UdpObservation> {
  const answers = await queryAll(
    observers.map((observer) => (limit) => queries.query(observer, ASK.where, limit)),
    signal,
  )
  const sightings = answers.flatMap((seen, i) =>
    seen === undefined ? [] : { host: seen.host, port: seen.port, observer: observers[i]!.host },
  )
  const [first] = sightings
  const observer = observers[answers.findIndex((answer) => answer !== undefined)]
  if (first === undefined || observer === undefined) return { nat: UNKNOWN_NAT }
  const mapping = mappingOf(sightings, isOwn)
  if (isMappingDependent({ mapping })) return { nat: { mapping, filtering: 'unknown' } }
  const isKnown = before.mapping === mapping && before.filtering !== 'unknown'
  const filtering = isKnown
    ? before.filtering
    : filteringOf((await queries.query(observer, ASK.elsewhere, signal)) !== undefined)
  return { nat: { mapping, filtering }, address: printHostPort(first.host, first.port) }
}
