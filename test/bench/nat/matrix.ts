import { setTimeout as sleep } from 'node:timers/promises'
import { figure, quantile } from '../table.ts'
import { bestPossible, isAtLeast, NETWORKS, rounds, type Network, type Path, type Protocol, straight } from './kinds.ts'
import type { World } from './world.ts'

/** One line of `--json`. */
export interface PairRow {
  from: string
  to: string
  protocol: Protocol
  connected: boolean
  firstPath: string
  settledPath: string
  bestPossible: Path
  firstByteMs: number
  /** The same for a flow of its own once the session is there: the median of a few. */
  knownFirstByteMs: number
  /** What the session measures, when those were taken. */
  rttMs: number
  settleMs: number
  mbps: number
  link: string
}

export interface MatrixOptions {
  /** Only pairs whose line `from to protocol` matches. */
  only: RegExp
  /** One way, of each uplink. */
  delayMs: number
  /** How long a better path may take to come. */
  settleMs: number
  say: (line: string) => void
  told: (row: PairRow) => void
  signal: AbortSignal
}

const CONNECT_MS = 20_000
const LOOK_MS = 50
const TAKE_BYTES = { tcp: 1_000_000, udp: 200_000 }
const TAKE_MS = 10_000
const KNOWN_ASKS = 5
/** Beyond one round trip, on a known session. */
const KNOWN_BEYOND_MS = 5

/**
 * Pair by pair, in rounds of pairs that share no node: a first byte by TCP and by UDP, then waiting together for better paths, then
 * throughput, one pair after the other.
 */
export async function matrix(world: World, networks: readonly Network[], options: MatrixOptions): Promise<PairRow[]> {
  const { only, say, told, signal } = options
  const rows: PairRow[] = []
  const all = rounds(networks)
  for (const [number, round] of all.entries()) {
    const wanted = round
      .map((pair) => new Pair(world, pair, options))
      .filter(({ protocols }) => protocols.some((protocol) => only.test(protocol)))
    if (wanted.length === 0) continue
    say(`round ${number + 1} of ${all.length}: ${wanted.map(({ words }) => words).join(', ')}`)
    await Promise.all(
      wanted.map(async (pair, i) => {
        await sleep(i * APART_MS, undefined, { signal })
        await pair.meet()
        await pair.settle()
      }),
    )
    for (const pair of wanted) {
      signal.throwIfAborted()
      for (const row of await pair.measured()) {
        rows.push(row)
        told(row)
      }
    }
  }
  return rows
}

/** Handshakes of one pair should not wait for the processor because of another's. */
const APART_MS = 120

class Pair {
  readonly words: string
  readonly protocols: string[]
  readonly #world: World
  readonly #from: Network
  readonly #to: Network
  readonly #options: MatrixOptions
  readonly #rows = new Map<Protocol, PairRow>()
  #at = { host: '', port: 0 }

  constructor(world: World, [from, to]: readonly [Network, Network], options: MatrixOptions) {
    this.#world = world
    this.#from = from
    this.#to = to
    this.#options = options
    this.words = `${from.name} → ${to.name}`
    this.protocols = (['tcp', 'udp'] as const).map((protocol) => `${from.name} ${to.name} ${protocol}`)
  }

  /** First bytes. A pair that cannot connect is a row too. */
  async meet(): Promise<void> {
    const [from, to] = [this.#from.name, this.#to.name]
    const { delayMs } = this.#options
    for (const protocol of ['tcp', 'udp'] as const) {
      const row: PairRow = {
        from,
        to,
        protocol,
        connected: false,
        firstPath: 'none',
        settledPath: 'none',
        bestPossible: bestPossible(this.#from, this.#to, protocol),
        firstByteMs: 0,
        knownFirstByteMs: 0,
        rttMs: 0,
        settleMs: 0,
        mbps: 0,
        link: this.#from.site === this.#to.site ? 'plain' : `${this.#world.lab.links}: ${delayMs} + ${delayMs} ms`,
      }
      this.#rows.set(protocol, row)
      try {
        if (this.#at.host === '') this.#at = await this.#world.at(from, to)
        const { ms } = await this.#world.station(from).ask({ ask: 'byte', at: this.#at, protocol, limitMs: CONNECT_MS })
        row.connected = true
        row.firstByteMs = Math.round(ms)
        row.firstPath = row.settledPath = (await this.#paths())[protocol]
      } catch (error) {
        this.#options.say(`${this.words} ${protocol}: ${(error as Error).message}`)
      }
    }
  }

  /** Looks until the best paths are there, or their time is over. What is kept alive by a byte now and then is what flows see. */
  async settle(): Promise<void> {
    const { settleMs, signal } = this.#options
    const startedAt = performance.now()
    const rows = [...this.#rows.values()].filter(({ connected }) => connected)
    let toldAt = startedAt
    while (rows.some((row) => !isAtLeast(row.settledPath, row.bestPossible))) {
      const now = performance.now()
      if (now - startedAt > settleMs || signal.aborted) return
      if (now - toldAt > ALIVE_MS) {
        toldAt = now
        await this.#byte('udp')
      }
      await sleep(LOOK_MS)
      const paths = await this.#paths()
      for (const row of rows) {
        if (paths[row.protocol] === row.settledPath || paths[row.protocol] === 'none') continue
        row.settledPath = paths[row.protocol]
        row.settleMs = Math.round(performance.now() - startedAt)
      }
    }
  }

  async measured(): Promise<PairRow[]> {
    for (const row of this.#rows.values()) {
      if (!row.connected) continue
      await this.#known(row)
      const question = { ask: 'take', at: this.#at, protocol: row.protocol, streams: 1, limitMs: TAKE_MS } as const
      const taken = await this.#world
        .station(this.#from.name)
        .ask({ ...question, bytes: TAKE_BYTES[row.protocol] })
        .catch((error: Error) => {
          this.#options.say(`${this.words} ${row.protocol}: ${error.message}`)
          return { mbps: 0 }
        })
      row.mbps = Number(taken.mbps.toFixed(1))
      const path = (await this.#paths())[row.protocol]
      if (path !== 'none') row.settledPath = path
    }
    return [...this.#rows.values()].filter((_row, i) => this.#options.only.test(this.protocols[i] ?? ''))
  }

  async #known(row: PairRow): Promise<void> {
    const times: number[] = []
    const question = { ask: 'byte', at: this.#at, protocol: row.protocol, limitMs: TAKE_MS } as const
    try {
      for (let i = 0; i < KNOWN_ASKS; i++) times.push((await this.#world.station(row.from).ask(question)).ms)
      row.knownFirstByteMs = Number((quantile(times, 0.5) ?? 0).toFixed(1))
      row.rttMs = Number(((await this.#world.peer(row.from, row.to))?.rttMs ?? 0).toFixed(1))
    } catch (error) {
      this.#options.say(`${this.words} ${row.protocol}, known: ${(error as Error).message}`)
    }
  }

  async #byte(protocol: Protocol): Promise<void> {
    const question = { ask: 'byte', at: this.#at, protocol, limitMs: 1_000 } as const
    await this.#world
      .station(this.#from.name)
      .ask(question)
      .catch(() => undefined)
  }

  /** How bytes and datagrams go now. */
  async #paths(): Promise<Record<Protocol, string>> {
    const peer = await this.#world.peer(this.#from.name, this.#to.name)
    if (peer === undefined) return { tcp: 'none', udp: 'none' }
    const sealed = peer.datagrams === 'sealed' ? (straight(this.#from, this.#to) ?? 'punched') : undefined
    return { tcp: peer.path, udp: sealed ?? peer.path }
  }
}

/** Without datagrams nothing is sealed, and nothing is found out. */
const ALIVE_MS = 400

/** What the issue asks for: connected, soon, on the best path, in time. */
export function shortOf(row: PairRow, delayMs: number): string[] {
  const siteOf = (name: string) => NETWORKS.find((network) => network.name === name)?.site
  const rtt = siteOf(row.from) === siteOf(row.to) ? 0 : 4 * delayMs
  const soonMs = row.protocol === 'tcp' ? 4 * rtt + 300 : rtt * 2 + 300
  return [
    ...(row.connected ? [] : ['not connected']),
    ...(row.connected && row.firstByteMs > soonMs ? [`first byte after ${row.firstByteMs} of ${soonMs} ms`] : []),
    ...(row.connected && (row.knownFirstByteMs === 0 || row.knownFirstByteMs > row.rttMs + KNOWN_BEYOND_MS)
      ? [`known: first byte after ${row.knownFirstByteMs} ms, the round trip is ${row.rttMs} ms`]
      : []),
    ...(row.connected && !isAtLeast(row.settledPath, row.bestPossible) ? [`not ${row.bestPossible}`] : []),
    ...(row.settleMs > 5_000 ? ['settled late'] : []),
  ]
}

/** Lines for people: a line a pair and protocol, and what it falls short of. */
export function tableOf(rows: readonly PairRow[], delayMs: number): string[] {
  const head = ['from', 'to', '', 'first', 'settled', 'best', 'first byte', 'known', 'RTT', 'settled', 'Mbit/s', '']
  const cells = rows.map((row) => [
    row.from,
    row.to,
    row.protocol,
    row.firstPath,
    row.settledPath,
    row.bestPossible,
    `${row.firstByteMs} ms`,
    `${row.knownFirstByteMs} ms`,
    `${row.rttMs} ms`,
    `${row.settleMs} ms`,
    figure(row.mbps),
    shortOf(row, delayMs).join(', '),
  ])
  const all = [head, ...cells]
  const widths = head.map((_, column) => Math.max(...all.map((line) => (line[column] as string).length)))
  return all.map((line) =>
    line
      .map((cell, column) =>
        column >= 6 && column <= 10 ? cell.padStart(widths[column] as number) : cell.padEnd(widths[column] as number),
      )
      .join('  ')
      .trimEnd(),
  )
}

/** Counts, for the end. */
export function summaryOf(rows: readonly PairRow[]): string[] {
  const share = (some: readonly PairRow[]) => `${some.length} of ${rows.length}`
  const best = rows.filter((row) => isAtLeast(row.settledPath, row.bestPossible))
  const punchable = rows.filter((row) => row.bestPossible === 'punched')
  const punched = punchable.filter((row) => isAtLeast(row.settledPath, 'punched'))
  return [
    `connected: ${share(rows.filter(({ connected }) => connected))}`,
    `on the best possible path: ${share(best)}`,
    `punchable and punched: ${punched.length} of ${punchable.length}`,
  ]
}
