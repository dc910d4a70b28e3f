import { randomBytes } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import type { Welcome } from '../../relay/wire/messages.ts'
import type { Question } from '../../relay/wire/observation.ts'
import type { Family } from '../addresses.ts'
import type { HostPort } from '../../../src/core/kit/host-port.ts'

/** A port of an observer, and what it wants to hear before it answers. */
export interface ObserverAddress extends HostPort {
  readonly cookie: string
}

interface Source {
  readonly host: string
  readonly ports: readonly [number, number]
  readonly cookie: string
}

/**
 * Two addresses show a NAT that makes a difference by address, two ports of one only a NAT that makes one by port. Both ports of
 * both are asked: when one address does not answer any more, the other still has two.
 */
const MOST_HOSTS = 2

/** Those who tell us where they see us (relay/observer.ts): of every relay that we listen at. */
export class Observers {
  readonly #sources = new Map<string, Source>()

  get isEmpty(): boolean {
    return this.#sources.size === 0
  }

  /** What a relay has said when we began to listen there. */
  tell(url: string, observer: NonNullable<Welcome['observer']>): void {
    const host = new URL(url).hostname.replace(/^\[|\]$/g, '')
    this.#sources.set(url, { host, ...observer })
  }

  /** Of that family: of two relays, or of two addresses of one; else two ports of one address. */
  async places(family: Family): Promise<ObserverAddress[]> {
    const wanted = family === 'ipv4' ? 4 : 6
    const found = await Promise.all(
      [...this.#sources.values()].map(async ({ host, ...source }) => {
        const all = await lookup(host, { family: wanted, all: true }).catch(() => [])
        return all
          .filter(({ address }) => isIP(address) === wanted)
          .map(({ address }) => ({ host: address, ...source }))
      }),
    )
    // the first address of each, then the second ones: two relays tell more than one
    const inTurn = Array.from({ length: MOST_HOSTS }, (_, turn) => found.flatMap((addresses) => addresses[turn] ?? []))
    const hosts = new Map(inTurn.flat().map((source) => [source.host, source]))
    return [...hosts.values()]
      .slice(0, MOST_HOSTS)
      .flatMap(({ host, ports, cookie }) => ports.map((port) => ({ host, port, cookie })))
  }
}

/** A question nobody has asked before. */
export function questionFor({ cookie }: ObserverAddress, ask: number): Question {
  return { ask, cookie, token: randomBytes(16).toString('hex') }
}

/** How long the others may take once two have answered. */
const LATE_MS = 1_000
const ENOUGH = 2

/** Asks all at once; `undefined` for those that failed, or were late. */
export async function gather<T>(
  asks: ReadonlyArray<(signal: AbortSignal) => Promise<T | undefined>>,
  signal: AbortSignal,
): Promise<(T | undefined)[]> {
  const late = new AbortController()
  const limit = AbortSignal.any([signal, late.signal])
  let timer: NodeJS.Timeout | undefined
  let answered = 0
  const answers = asks.map(async (ask) => {
    const answer = await ask(limit).catch(() => undefined)
    if (answer !== undefined && ++answered === ENOUGH) timer = setTimeout(() => late.abort(), LATE_MS)
    return answer
  })
  try {
    return await Promise.all(answers)
  } finally {
    clearTimeout(timer)
  }
}
