import { randomInt } from 'node:crypto'
import { readFileSync, unwatchFile, watchFile } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { Lifetime } from '../src/core/kit/lifetime.ts'
import type { Log } from '../src/core/kit/log.ts'
import { CODE } from './numbers.ts'
import { askTcp, askUdp, sourceKey } from './exchange.ts'
import { parseResolvConf, parseServer, withoutOurselves, type Server } from './resolv-conf.ts'
import { codeOf, cut, isTruncated, type Query } from './wire.ts'

/*
 *   query ─▶ same one under way? ─▶ share its reply
 *         └▶ server that answered last ─▶ udp (a fresh socket and id each time) ─▶ truncated: tcp
 *            silent 2 s, down, SERVFAIL ─▶ the next server, at least two tries ─▶ nobody in 4.8 s: SERVFAIL
 *
 * Messages pass through as they are, but for the id. A loop through another resolver of this machine ends in one shared
 * question that waits for itself, never in a storm; a question that comes straight back is known by its source address.
 */

export type Transport = 'udp' | 'tcp'

export interface UpstreamOptions {
  /** Absent: the host's, from resolv.conf. */
  servers?: readonly string[]
  /** Where this resolver listens. */
  own: Server
  tryMs?: number
  totalMs?: number
  resolvConf?: readonly string[]
}

/** systemd-resolved keeps the servers of the network here when resolv.conf names only itself, or us. */
const RESOLV_CONF = ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf']
/** A laptop that changes networks waits this long at most. */
const WATCH_MS = 5_000

export class Upstream {
  readonly #options: UpstreamOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #underWay = new Map<string, Promise<Buffer | undefined>>()
  /** Sources of our own questions. */
  readonly #sources = new Set<string>()
  /** The one that answered last comes first. */
  #servers: readonly Server[] = []
  #hasComplained = false

  static start(options: UpstreamOptions, log: Log): Promise<Upstream> {
    return Lifetime.open((life) => {
      const upstream = new Upstream(options, log, life)
      upstream.#read()
      if (options.servers === undefined) upstream.#watch()
      return upstream
    })
  }

  private constructor(options: UpstreamOptions, log: Log, life: Lifetime) {
    this.#options = options
    this.#log = log
    this.#life = life
  }

  get servers(): readonly Server[] {
    return this.#servers
  }

  /** Whether a question came from this agent's own upstream sockets. */
  isOurs(source: Server): boolean {
    return this.#sources.has(sourceKey(source))
  }

  /** The reply for the asker, `SERVFAIL` or `REFUSED` when there is none. */
  async forward(query: Query, transport: Transport, limit: number): Promise<Buffer | 'SERVFAIL' | 'REFUSED'> {
    if (this.#servers.length === 0) return this.#refuse()
    const key = transport + query.packet.toString('latin1', 2)
    let shared = this.#underWay.get(key)
    if (shared === undefined) {
      shared = this.#askInTurn(query, transport).finally(() => this.#underWay.delete(key))
      this.#underWay.set(key, shared)
    }
    const message = await shared
    if (message === undefined) return 'SERVFAIL'
    if (message.length > limit) return cut(message, query)
    const reply = Buffer.from(message)
    query.packet.copy(reply, 0, 0, 2)
    return reply
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #askInTurn(query: Query, transport: Transport): Promise<Buffer | undefined> {
    const { tryMs = 2_000, totalMs = 4_800 } = this.#options
    const total = AbortSignal.any([this.#life.signal, AbortSignal.timeout(totalMs)])
    const servers = this.#servers
    const tries = Math.max(2, servers.length)
    let refusal: Buffer | undefined
    for (let i = 0; i < tries && !total.aborted; i++) {
      const server = servers[i % servers.length] as Server
      const signal = AbortSignal.any([total, AbortSignal.timeout(tryMs)])
      try {
        const reply = await this.#ask(server, query, transport, signal)
        if (isFailure(reply)) {
          refusal = reply
          if (servers.length === 1) break
        } else {
          this.#prefer(server)
          return reply
        }
      } catch (error) {
        if (!this.#life.signal.aborted) this.#log.debug('upstream does not answer', { address: show(server), error })
      }
    }
    if (refusal === undefined && !this.#life.signal.aborted) {
      this.#complain('no upstream answers', { address: servers.map(show) })
    }
    return refusal
  }

  /** @throws when it does not answer until the signal aborts. */
  async #ask(server: Server, query: Query, transport: Transport, signal: AbortSignal): Promise<Buffer> {
    const sent = Buffer.from(query.packet)
    sent.writeUInt16BE(randomInt(0x10000), 0)
    const exchange = { server, sent, end: query.end, sources: this.#sources }
    if (transport === 'tcp') return await askTcp(exchange, signal)
    const reply = await askUdp(exchange, signal)
    // Perhaps it only could not say it all at once, and the asker takes more.
    return isTruncated(reply) ? await askTcp(exchange, signal).catch(() => reply) : reply
  }

  #prefer(server: Server): void {
    this.#hasComplained = false
    if (this.#servers[0] === server || !this.#servers.includes(server)) return
    this.#servers = [server, ...this.#servers.filter((other) => other !== server)]
  }

  #refuse(): 'REFUSED' {
    this.#complain('no upstream to forward to', {})
    return 'REFUSED'
  }

  /** Once until it works again: every question would say the same. */
  #complain(sentence: string, fields: Record<string, unknown>): void {
    if (this.#hasComplained) return
    this.#hasComplained = true
    this.#log.warn(sentence, { ...fields, reason: 'names outside the mesh are not resolved' })
  }

  /** The configured servers, else those of the first file that names any but ourselves. */
  #read(): void {
    const { servers: configured, own, resolvConf = RESOLV_CONF } = this.#options
    const local = new Set(
      Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ address }) => address)),
    )
    const lists =
      configured === undefined
        ? resolvConf.map((path) => parseResolvConf(textOf(path)))
        : [configured.map(parseServer).filter((server) => server !== undefined)]
    this.#servers = lists.map((list) => withoutOurselves(list, own, local)).find((list) => list.length > 0) ?? []
    this.#hasComplained = false
  }

  #watch(): void {
    for (const path of this.#options.resolvConf ?? RESOLV_CONF) {
      const changed = () => this.#read()
      watchFile(path, { interval: WATCH_MS, persistent: false }, changed)
      this.#life.defer(() => unwatchFile(path, changed))
    }
  }
}

/** It answered, but another server may know better. */
function isFailure(reply: Buffer): boolean {
  const code = codeOf(reply)
  return code === CODE.SERVFAIL || code === CODE.REFUSED || code === CODE.NOTIMP
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // absent or unreadable: there are no servers in it
  }
}

function show({ address, port }: Server): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}
