import { randomBytes } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import type { HostPort } from '../../../src/core/kit/host-port.ts'
import type { Welcome } from '../../relay/wire/messages.ts'
import type { Question } from '../../relay/wire/observation.ts'
import type { Family } from '../addresses.ts'

/** One port of an observer, and the cookie it must be shown before it answers. */
export interface ObserverAddress extends HostPort {
  readonly cookie: string
}

interface Source {
  readonly host: string
  readonly ports: readonly [number, number]
  readonly cookie: string
}

/**
 * Two addresses show a mapping that depends on the address, and two ports of one address only a mapping that depends on the
 * port. Both ports of both are asked: when one address no longer answers, the other still has two.
 */
const MOST_HOSTS = 2

/** The observers (relay/observer.ts) of the relays at which we listen: they answer under which address they see us. */
export class Observers {
  readonly #sources = new Map<string, Source>()

  get isEmpty(): boolean {
    return this.#sources.size === 0
  }

  /** `observer` is what the relay at `url` said in its `welcome`. */
  add(url: string, observer: NonNullable<Welcome['observer']>): void {
    const host = new URL(url).hostname.replace(/^\[|\]$/g, '')
    this.#sources.set(url, { host, ...observer })
  }

  /** Observer ports of that family: of two relays, or of two addresses of one relay; else the two ports of one address. */
  async addresses(family: Family): Promise<ObserverAddress[]> {
    const wanted = family === 'ipv4' ? 4 : 6
    const found = await Promise.all(
      [...this.#sources.values()].map(async ({ host, ...source }) => {
        const all = await lookup(host, { family: wanted, all: true }).catch(() => [])
        return all
          .filter(({ address }) => isIP(address) === wanted)
          .map(({ address }) => ({ host: address, ...source }))
      }),
    )
    // the first address of each relay, then the second ones: two relays show more than one
    const inTurn = Array.from({ length: MOST_HOSTS }, (_, turn) => found.flatMap((addresses) => addresses[turn] ?? []))
    const hosts = new Map(inTurn.flat().map((source) => [source.host, source]))
    return [...hosts.values()]
      .slice(0, MOST_HOSTS)
      .flatMap(({ host, ports, cookie }) => ports.map((port) => ({ host, port, cookie })))
  }
}

/** A question with a fresh token. */
export function newQuestion({ cookie }: ObserverAddress, ask: number): Question {
  return { ask, cookie, token: randomBytes(16).toString('hex') }
}

/** How long the others may take once two have answered. */
const LATE_MS = 1_000
const ENOUGH = 2

/** Runs all queries at once; `undefined` for those that failed or were late. */
export async function queryAll<T>(
  queries: ReadonlyArray<(signal: AbortSignal) => Promise<T | undefined>>,
  signal: AbortSignal,
): Promise<(T | undefined)[]> {
  const late = new AbortController()
  const limit = AbortSignal.any([signal, late.signal])
  let timer: NodeJS.Timeout | undefined
  let answered = 0
  const answers = queries.map(async (query) => {
    const answer = await query(limit).catch(() => undefined)
    if (answer !== undefined && ++answered === ENOUGH) timer = setTimeout(() => late.abort(), LATE_MS)
    return answer
  })
  try {
    return await Promise.all(answers)
  } finally {
    clearTimeout(timer)
  }
}
