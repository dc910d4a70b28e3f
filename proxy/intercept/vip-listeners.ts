import { BoundSocket, createServer, type Server, type Socket } from 'node:net'
import { closeWhenIdle } from '../../src/core/kit/close-when-idle.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { holdsVip, vipToIPv4, vipToIPv6, type VipRange } from '../../src/core/model/address.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { ServiceId } from '../../src/core/model/ids.ts'
import type { Service, VipIndex } from '../../src/core/model/service.ts'
import type { Target } from '../../src/core/table/view.ts'
import type { Caller, DatagramIntent, DatagramSink } from '../flow/flow.ts'
import { resetSocket } from '../socket/reset.ts'
import { type DatagramClient, DatagramListener } from './datagrams.ts'
import { BACKLOG, type Identify, type InterceptParts, type Interceptor, type Problem } from './interceptor.ts'
import { background } from '../../src/core/kit/background.ts'

/*
 *   table change ─▶ queued ─▶ open ─▶ closed (gone from the table; its open flows go on)
 *                     ▲         │
 *                     └─ failed ◀ port taken, no right: told once, tried again
 *
 * One listener (TCP) or door (UDP) for each VIP and port of every service in the table, which holds only what this node uses. They are opened
 * in batches; `touch` puts one before the queue when its name is answered. Beyond `limit` only touched VIPs are opened, and
 * nothing is kept for the others.
 */

export interface VipListenersOptions {
  mode: 'loopback' | 'host'
  range: VipRange
  /** Listeners at most; each costs a descriptor. Larger: less is left for flows, and 2.5 KB of memory each. */
  limit?: number
  /** How often a failed one is tried again. */
  retryMs?: number
}

/** Opened per turn of the event loop: about 3 ms. Larger: flows feel a big service arrive. */
const BATCH = 64

/** VIPs of numbered instances take no more of the limit than this: there are many, and few are called. */
const NUMBERED_SHARE = 0.25

interface Place {
  readonly key: string
  readonly vip: VipIndex
  /** Its choice names no instance. */
  readonly isOfAny: boolean
  readonly address: string
  readonly port: number
  readonly protocol: 'tcp' | 'udp'
  readonly service: ServiceId
  /** For TCP … */
  server?: Server
  /** … and for UDP. */
  door?: DatagramListener
  problem?: Problem
}

/** The listeners of `loopback` and `host` mode. */
export class VipListeners implements Interceptor {
  readonly #life: Lifetime
  readonly #options: Required<VipListenersOptions>
  readonly #identify: Identify
  readonly #parts: InterceptParts
  readonly #places = new Map<string, Place>()
  readonly #byService = new Map<ServiceId, Set<string>>()
  readonly #byVip = new Map<VipIndex, Set<Place>>()
  readonly #queue = new Set<Place>()
  readonly #told = new Set<string>()
  #open = 0
  #isClosed = false

  private constructor(life: Lifetime, options: VipListenersOptions, identify: Identify, parts: InterceptParts) {
    this.#life = life
    this.#options = { limit: 4_096, retryMs: 5_000, ...options }
    this.#identify = identify
    this.#parts = parts
  }

  static start(options: VipListenersOptions, identify: Identify, parts: InterceptParts): Promise<VipListeners> {
    return Lifetime.open((life) => {
      const listeners = new VipListeners(life, options, identify, parts)
      life.defer(() => listeners.#closeAll())
      life.defer(parts.table.onChange((service, entry) => listeners.#follow(service, entry)))
      life.every(listeners.#options.retryMs, () => listeners.retry(), 'VIP listener retry')
      for (const entry of parts.table.services()) listeners.#follow(entry.service.id, entry)
      return listeners
    })
  }

  /** Nothing known waits to be opened. */
  get isSettled(): boolean {
    return this.#queue.size === 0
  }

  /** Listeners that are open. */
  get size(): number {
    return this.#open
  }

  /**
   * Called before a name is answered: its listeners are bound when this returns, hence before the answer leaves. Costs one
   * look-up when they are open already.
   */
  touch({ vip, service }: Target): void {
    for (const place of this.#byVip.get(vip) ?? this.#known(service, vip)) {
      if (isOpen(place)) continue
      this.#queue.delete(place)
      this.#listen(place)
    }
  }

  problems(): Problem[] {
    return Array.from(this.#places.values(), ({ problem }) => problem).filter((problem) => problem !== undefined)
  }

  /** Tries again what failed; also called every `retryMs`. */
  retry(): void {
    for (const place of this.#places.values()) if (place.problem !== undefined && !isOpen(place)) this.#enqueue(place)
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #follow(service: ServiceId, entry: ServiceEntry | undefined): void {
    if (this.#isClosed) return
    const wanted = entry === undefined ? [] : this.#placesOf(entry.service)
    const keys = new Set(wanted.map(({ key }) => key))
    for (const key of this.#byService.get(service) ?? []) {
      const place = this.#places.get(key)
      if (!keys.has(key) && place?.service === service) this.#remove(place)
    }
    for (const place of wanted) {
      const known = this.#places.get(place.key)
      if (known?.service === service) continue
      if (known !== undefined) this.#remove(known) // the VIP has a new owner
      const room = place.isOfAny ? this.#options.limit : this.#options.limit * NUMBERED_SHARE
      if (this.#open + this.#queue.size < room) this.#enqueue(this.#add(place))
    }
    const kept = new Set(Array.from(keys).filter((key) => this.#places.get(key)?.service === service))
    if (kept.size === 0) this.#byService.delete(service)
    else this.#byService.set(service, kept)
  }

  /** A VIP that was beyond the limit, until now. */
  #known(service: Service, wanted: VipIndex): Place[] {
    if (this.#isClosed || this.#parts.table.entry(service.id) === undefined) return []
    const places = this.#placesOf(service).filter(({ vip }) => vip === wanted)
    const keys = this.#byService.get(service.id) ?? new Set()
    for (const { key } of places) keys.add(key)
    if (keys.size > 0) this.#byService.set(service.id, keys)
    return places.map((place) => this.#add(place))
  }

  #add(place: Place): Place {
    this.#places.set(place.key, place)
    const sameVip = this.#byVip.get(place.vip)
    if (sameVip === undefined) this.#byVip.set(place.vip, new Set([place]))
    else sameVip.add(place)
    return place
  }

  #placesOf(service: Service): Place[] {
    const { range } = this.#options
    const places: Place[] = []
    for (const [choice, vip] of Object.entries(service.vips)) {
      if (vip === undefined) continue
      const isOfAny = choice.startsWith('any.')
      const v4 = holdsVip(range, vip) ? vipToIPv4(range, vip) : undefined
      for (const address of [v4, vipToIPv6(range, vip)]) {
        if (address === undefined) continue
        for (const { port, protocol } of service.ports) {
          if (protocol === 'udp' && this.#parts.onDatagramClient === undefined) continue
          const key = `${address} ${port}/${protocol}`
          places.push({ key, vip, isOfAny, address, port, protocol, service: service.id })
        }
      }
    }
    return places
  }

  #enqueue(place: Place): void {
    this.#queue.add(place)
    if (this.#queue.size === 1) setImmediate(() => this.#openBatch())
  }

  #openBatch(): void {
    let left = BATCH
    for (const place of this.#queue) {
      if (left-- === 0) break
      this.#queue.delete(place)
      this.#listen(place)
    }
    if (this.#queue.size > 0) setImmediate(() => this.#openBatch())
  }

  #listen(place: Place): void {
    if (this.#isClosed || this.#places.get(place.key) !== place || isOpen(place)) return
    if (place.protocol === 'udp') this.#openDoor(place)
    else this.#openServer(place)
  }

  #openDoor(place: Place): void {
    try {
      place.door = DatagramListener.open(place, (client) => this.#takeDatagrams(place, client))
    } catch (error) {
      return this.#failed(place, error as NodeJS.ErrnoException)
    }
    delete place.problem
    this.#count(1)
  }

  #takeDatagrams({ vip, port }: Place, client: DatagramClient): DatagramSink | undefined {
    const { table, clock, onDatagramClient } = this.#parts
    const { mode } = this.#options
    const target = table.byVip(vip)
    if (target === undefined) return undefined
    const wish = (caller: Caller | undefined): DatagramIntent =>
      caller === undefined
        ? { kind: 'refused', name: target.service.id, reason: 'it cannot be told who calls' }
        : { kind: 'target', target, caller }
    const found = this.#identify(client, target)
    return onDatagramClient?.({
      port,
      mode,
      startedAt: clock.now(),
      intent: found instanceof Promise ? found.then(wish) : wish(found),
      answer: (payload) => client.answer(payload),
      ended: () => client.over(),
    })
  }

  #openServer(place: Place): void {
    const { address, port } = place
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => {
      void background.run('flow of a VIP', async () => {
        try {
          await this.#take(place, socket)
        } catch (error) {
          socket.destroy()
          throw error
        }
      })
    })
    place.server = server
    server.on('error', (error: NodeJS.ErrnoException) => {
      if (place.server === server) delete place.server
      server.close()
      this.#failed(place, error)
    })
    server.on('listening', () => {
      if (place.server !== server) return
      delete place.problem
      this.#count(1)
    })
    try {
      // bound in this very call: whoever asked for the name may connect as soon as the answer is out; and to be
      // shared with the agent that takes over
      server.listen(new BoundSocket({ host: address, port, ipv6Only: true, reusePort: true }), BACKLOG)
    } catch (error) {
      delete place.server
      this.#failed(place, error as NodeJS.ErrnoException)
    }
  }

  async #take({ vip, port }: Place, socket: Socket): Promise<void> {
    const { table, clock, onFlow, log } = this.#parts
    const startedAt = clock.now()
    const target = table.byVip(vip)
    socket.on('error', () => undefined)
    if (target === undefined) return resetSocket(socket)
    const found = this.#identify(socket, target)
    const caller: Caller | undefined = found instanceof Promise ? await found : found
    if (caller === undefined) {
      log.warn('flow refused', { vip, port, service: target.service.id, reason: 'it cannot be told who calls' })
      return resetSocket(socket)
    }
    onFlow({ target, port, socket, caller, mode: this.#options.mode, startedAt })
  }

  #failed(place: Place, error: NodeJS.ErrnoException): void {
    const { address, port, service } = place
    const [reason, remedy] = explainFailure(error, port)
    const code = error.code === 'EADDRINUSE' ? 'PORT_TAKEN' : 'INTERCEPT_FAILED'
    place.problem = { code, address, port, reason, remedy }
    const once = `${service} ${port}/${place.protocol} ${error.code}`
    if (this.#told.has(once)) return
    this.#told.add(once)
    this.#parts.log.warn('cannot take flows', { service, address, port, reason, remedy })
  }

  #remove(place: Place): void {
    this.#places.delete(place.key)
    this.#queue.delete(place)
    const sameVip = this.#byVip.get(place.vip)
    sameVip?.delete(place)
    if (sameVip?.size === 0) this.#byVip.delete(place.vip)
    const { server, door } = place
    delete place.server
    delete place.door
    if (door !== undefined) {
      this.#count(-1)
      door.close()
    }
    if (server === undefined) return
    if (server.listening) this.#count(-1)
    server.close() // only stops listening; open flows go on
  }

  #count(change: number): void {
    this.#open += change
    this.#parts.metrics.listeners.set({ mode: this.#options.mode }, this.#open)
  }

  async #closeAll(): Promise<void> {
    this.#isClosed = true
    const servers = Array.from(this.#places.values(), ({ server }) => server).filter((server) => server !== undefined)
    await closeWhenIdle(
      servers.filter(({ listening }) => listening),
      'connection',
    )
    for (const place of this.#places.values()) this.#remove(place)
  }
}

function isOpen({ server, door }: Place): boolean {
  return server !== undefined || door !== undefined
}

function explainFailure(error: NodeJS.ErrnoException, port: number): [reason: string, remedy: string] {
  switch (error.code ?? '') {
    case 'EADDRINUSE':
      return [
        `another program listens on port ${port} of every address`,
        `let it listen on 127.0.0.1:${port}, or call the service through the SOCKS or HTTP listener`,
      ]
    case 'EACCES':
    case 'EPERM':
      return [
        `ports below 1024 need a right`,
        'give node CAP_NET_BIND_SERVICE, lower net.ipv4.ip_unprivileged_port_start, or use the SOCKS or HTTP listener',
      ]
    case 'EADDRNOTAVAIL':
      return ['the address is not local', 'take a range inside 127.0.0.0/8, or host mode']
    case 'EMFILE':
    case 'ENFILE':
      return ['no descriptors are left', 'raise the limit of open files (ulimit -n)']
    default:
      return [error.message, 'see the reason']
  }
}
