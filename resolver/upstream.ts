import { randomInt } from 'node:crypto'
import { unwatchFile, watchFile } from 'node:fs'
import { readPlainFile } from '../src/core/kit/plain-file.ts'
import { interfacesHere } from '../src/core/kit/interfaces.ts'
import { Lifetime } from '../src/core/kit/lifetime.ts'
import type { Log } from '../src/core/kit/log.ts'
import { CODE } from './numbers.ts'
import { askTcp, askUdp, sourceKey } from './exchange.ts'
import { parseResolvConf, parseServer, withoutOurselves, type Server } from './resolv-conf.ts'
import type { Query } from './query.ts'
import { codeOf, cut, isTruncated } from './wire.ts'

/*
 *   query ─▶ the same one is under way? ─▶ share its reply
 *         └▶ the server that answered last ─▶ udp (a fresh socket and id each time) ─▶ truncated: tcp
 *            silent for 2 s, down, SERVFAIL ─▶ the next server, at least two tries ─▶ no answer in 4.8 s: SERVFAIL
 *
 * Messages pass through unchanged except for the id. A loop through another resolver of this machine ends in one shared
 * question that waits for itself, never in a storm; a question that comes straight back is recognised by its source address.
 */

export type Transport = 'udp' | 'tcp'

export interface UpstreamOptions {
  /** Absent: those of the machine, from resolv.conf. */
  servers?: readonly string[]
  /** Where this resolver listens. */
  own: Server
  tryMs?: number
  totalMs?: number
  resolvConf?: readonly string[]
  remembered?: RememberedServers
}

/** The servers of the machine from before resolv.conf named only us. Neither method throws. */
export interface RememberedServers {
  load(): readonly string[]
  save(servers: readonly string[]): void
}

/** systemd-resolved keeps the servers of the network here when resolv.conf names only itself, or us. */
const RESOLV_CONF = ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf']
/** How long a laptop that changes networks goes on with the old servers, at most. */
const WATCH_MS = 5_000

export class Upstream {
  readonly #options: UpstreamOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #underWay = new Map<string, SharedQuestion>()
  /** Sources of our own questions. */
  readonly #sources = new Set<string>()
  /** The one that answered last comes first. */
  #servers: readonly Server[] = []
  #hasComplained = false
  #isRemembered = false

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

  /** resolv.conf names no server but this resolver, so those of an earlier time are asked. */
  get isRemembered(): boolean {
    return this.#isRemembered
  }

  /** Whether a question came from this agent's own upstream sockets. */
  isOurs(source: Server): boolean {
    return this.#sources.has(sourceKey(source))
  }

  /** The reply for the client; `SERVFAIL` or `REFUSED` when there is none. `signal`: the client no longer waits. */
  async forward(query: Query, { transport, limit, signal }: Forwarding): Promise<Buffer | 'SERVFAIL' | 'REFUSED'> {
    if (this.#servers.length === 0) return this.#refuse()
    const shared = this.#share(query, transport)
    shared.clients += 1
    const leave = () => {
      shared.clients -= 1
      if (shared.clients === 0) shared.abort.abort()
    }
    signal.addEventListener('abort', leave, { once: true })
    const message = await Promise.race([shared.reply, aborted(signal)])
    signal.removeEventListener('abort', leave)
    if (message === undefined) return 'SERVFAIL'
    if (message.length > limit) return cut(message, query)
    const reply = Buffer.from(message)
    query.packet.copy(reply, 0, 0, 2)
    return reply
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #share(query: Query, transport: Transport): SharedQuestion {
    const key = transport + query.packet.toString('latin1', 2)
    const known = this.#underWay.get(key)
    if (known !== undefined && !known.abort.signal.aborted) return known
    const abort = new AbortController()
    const reply = this.#askInTurn(query, transport, abort.signal).finally(() => {
      if (this.#underWay.get(key) === shared) this.#underWay.delete(key)
    })
    const shared = { reply, abort, clients: 0 }
    this.#underWay.set(key, shared)
    return shared
  }

  async #askInTurn(query: Query, transport: Transport, abandoned: AbortSignal): Promise<Buffer | undefined> {
    const { tryMs = 2_000, totalMs = 4_800 } = this.#options
    const total = AbortSignal.any([this.#life.signal, abandoned, AbortSignal.timeout(totalMs)])
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
        if (!total.aborted) this.#log.debug('an upstream server does not answer', { address: show(server), error })
      }
    }
    if (refusal === undefined && !this.#life.signal.aborted && !abandoned.aborted) {
      this.#complain('no upstream server answers', { address: servers.map(show) })
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
    // The reply may only have been too long for one packet, and the client may take more.
    return isTruncated(reply) ? await askTcp(exchange, signal).catch(() => reply) : reply
  }

  #prefer(server: Server): void {
    this.#hasComplained = false
    if (this.#servers[0] === server || !this.#servers.includes(server)) return
    this.#servers = [server, ...this.#servers.filter((other) => other !== server)]
  }

  #refuse(): 'REFUSED' {
    this.#complain('no upstream server is known', {})
    return 'REFUSED'
  }

  /** Once until it works again, since every question would log the same. */
  #complain(sentence: string, fields: Record<string, unknown>): void {
    if (this.#hasComplained) return
    this.#hasComplained = true
    this.#log.warn(sentence, { ...fields, reason: 'names outside the mesh are not resolved' })
  }

  /** The configured servers; else those of the first file that names any but ourselves; else those of an earlier time. */
  #read(): void {
    const { servers: configured, resolvConf = RESOLV_CONF, remembered } = this.#options
    this.#hasComplained = false
    this.#isRemembered = false
    if (configured !== undefined) {
      this.#servers = this.#others(configured.map(parseServer).filter((server) => server !== undefined))
      return
    }
    const lists = resolvConf.map((path) => this.#others(parseResolvConf(textOf(path))))
    this.#servers = lists.find((list) => list.length > 0) ?? []
    if (this.#servers.length > 0) remembered?.save(this.#servers.map(show))
    else this.#recall(remembered?.load() ?? [])
  }

  #recall(texts: readonly string[]): void {
    this.#servers = this.#others(texts.map(parseServer).filter((server) => server !== undefined))
    this.#isRemembered = this.#servers.length > 0
    if (this.#isRemembered)
      this.#log.warn('resolv.conf names only this resolver; earlier servers are used', { address: texts })
  }

  #others(servers: readonly Server[]): Server[] {
    const local = new Set(Object.values(interfacesHere()).flatMap((list) => (list ?? []).map(({ address }) => address)))
    return withoutOurselves(servers, this.#options.own, local)
  }

  #watch(): void {
    for (const path of this.#options.resolvConf ?? RESOLV_CONF) {
      const changed = () => this.#read()
      watchFile(path, { interval: WATCH_MS, persistent: false }, changed)
      this.#life.defer(() => unwatchFile(path, changed))
    }
  }
}

export interface Forwarding {
  transport: Transport
  /** Bytes that the client takes. */
  limit: number
  signal: AbortSignal
}

/** One question for all clients that ask it at the same time. */
interface SharedQuestion {
  readonly reply: Promise<Buffer | undefined>
  /** Aborted when no client waits any longer. */
  readonly abort: AbortController
  clients: number
}

function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(undefined)
    else signal.addEventListener('abort', () => resolve(undefined), { once: true })
  })
}

/** It answered, but another server may know better. */
function isFailure(reply: Buffer): boolean {
  const code = codeOf(reply)
  return code === CODE.SERVFAIL || code === CODE.REFUSED || code === CODE.NOTIMP
}

function textOf(path: string): string {
  try {
    return readPlainFile(path) ?? ''
  } catch {
    return '' // absent or unreadable: there are no servers in it
  }
}

function show({ address, port }: Server): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}
