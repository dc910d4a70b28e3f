import type { Server } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { closeWhenIdle } from '../../src/core/kit/close-when-idle.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { LocalSources } from '../../src/core/kit/local-sources.ts'
import { cidrsOf, type VipRange } from '../../src/core/model/address.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { ServiceId } from '../../src/core/model/ids.ts'
import type { VipIndex } from '../../src/core/model/service.ts'
import type { Target } from '../../src/core/table/view.ts'
import type { Identify, InterceptParts, Interceptor, Problem } from './interceptor.ts'
import { mayUseNft, type Nft } from './nft.ts'
import { PortRedirect } from './port-redirect.ts'
import { VipCalls } from './vip-calls.ts'
import { VipListener, type VipListenerOwner } from './vip-listener.ts'
import { type VipPort, vipPortsOf } from './vip-ports.ts'

/*
 *   table change ─▶ queued ─▶ open ─▶ closed (gone from the table, or no instance; its open flows go on)
 *                     ▲         │
 *                     └─ failed ◀ the port is taken, a right is missing: logged once, tried again
 *
 * One listener for each VIP and port of every service in the table, which holds only what this node uses. They are opened in
 * batches; `prepare` opens those of a name before it is answered. Beyond `limit` only prepared VIPs are opened, and nothing
 * is kept for the others. Where there are rights, they listen at ports that no server of the machine wants (port-redirect.ts).
 */

export interface VipListenersOptions {
  mode: 'loopback' | 'host'
  range: VipRange
  /** Listeners at most; each costs a descriptor. Larger: less is left for flows, and 2.5 KB of memory each. */
  limit?: number
  /** How often a failed one is tried again. */
  retryMs?: number
  /** Absent: the ports of VIPs are bound as they are. */
  nft?: Nft
  /** Interfaces whose neighbours may call, for the rules in the kernel. */
  interfaces?: readonly string[]
  /** The kernel carries some flows to VIPs itself. */
  hasFastPath?: boolean
  /** Another agent serves the same VIPs until this one has taken over. */
  isSuccessor?: boolean
}

type Settings = Required<Omit<VipListenersOptions, 'nft'>>

/** Opened per turn of the event loop: about 3 ms. Larger: flows feel a big service arrive. */
const BATCH = 64
/** VIPs of numbered instances take no more of the limit than this: there are many, and few are called. */
const NUMBERED_SHARE = 0.25

/** Why a name should not be answered, because a program that is no part of the mesh would be called; `undefined`: ready. */
export type Prepared = string | undefined

export interface Obstacle {
  readonly port: number
  readonly protocol: 'tcp' | 'udp'
  readonly reason: string
}

/** The listeners of `loopback` and `host` mode. */
export class VipListeners implements Interceptor {
  readonly #life: Lifetime
  readonly #settings: Settings
  readonly #parts: InterceptParts
  readonly #redirect: PortRedirect | undefined
  readonly #owner: VipListenerOwner
  readonly #listeners = new Map<string, VipListener>()
  readonly #byService = new Map<ServiceId, Set<string>>()
  readonly #byVip = new Map<VipIndex, Set<VipListener>>()
  readonly #queue = new Set<VipListener>()
  /** Keys that were asked for: they are opened again whatever the limit. */
  readonly #prepared = new Set<string>()
  readonly #logged = new Set<string>()
  #open = 0
  #isClosed = false

  private constructor(life: Lifetime, settings: Settings, redirect: PortRedirect | undefined, world: World) {
    this.#life = life
    this.#settings = settings
    this.#redirect = redirect
    this.#parts = world.parts
    const { log, clock } = world.parts
    const sources = world.parts.sources ?? new LocalSources(log, { ranges: cidrsOf(settings.range), clock })
    const calls = new VipCalls({ mode: settings.mode, sources, ...world })
    this.#owner = {
      tookSocket: (at, socket) => calls.tookSocket(at, socket),
      tookDatagramFrom: (at, sender) => calls.tookDatagramFrom(at, sender),
      opened: () => this.#count(1),
      closed: () => this.#count(-1),
      failed: (at, problem) => this.#logOnce(at, problem),
    }
  }

  static start(options: VipListenersOptions, identify: Identify, parts: InterceptParts): Promise<VipListeners> {
    return Lifetime.open(async (life) => {
      const { nft, ...given } = options
      const settings = {
        limit: 4_096,
        retryMs: 5_000,
        interfaces: [],
        hasFastPath: false,
        isSuccessor: false,
        ...given,
      }
      const redirect =
        nft === undefined || !mayUseNft() ? undefined : await PortRedirect.start(life, { ...settings, nft }, parts.log)
      const listeners = new VipListeners(life, settings, redirect, { identify, parts })
      if (redirect !== undefined) redirect.onLost = () => listeners.#rebind()
      life.defer(() => listeners.#closeAll())
      life.defer(parts.table.onChange((service, entry) => listeners.#follow(service, entry)))
      life.every(settings.retryMs, () => listeners.retry(), 'vip listeners')
      for (const entry of parts.table.services()) listeners.#follow(entry.service.id, entry)
      return listeners
    })
  }

  /** No listener waits to be opened, and the kernel knows the ports of all. */
  get isSettled(): boolean {
    return this.#queue.size === 0 && this.#redirect?.ready() === undefined
  }

  /** Resolves when every listener that the table asks for has been opened, or has failed. */
  async settled(): Promise<void> {
    while (!this.isSettled) await (this.#redirect?.ready() ?? turn())
  }

  /** Listeners that are open. */
  get size(): number {
    return this.#open
  }

  /** Whether the kernel keeps strangers out, and the ports of VIPs free for the machine; else why not. */
  get rules(): { isOn: boolean; fault: string | undefined } {
    const fault = this.#redirect === undefined ? 'no right to set rules in the kernel' : this.#redirect.fault
    return { isOn: this.#redirect?.isOn === true, fault }
  }

  /**
   * Called before a name is answered: its listeners are open when this is done, hence before the answer leaves. Costs one
   * look-up when they are open already.
   */
  prepare({ vip, service }: Target): Prepared | Promise<Prepared> {
    if (this.#isClosed) return undefined // whoever takes over from this agent has them open
    const listeners = this.#byVip.get(vip) ?? this.#addLate(service.id, vip)
    for (const listener of listeners) if (!listener.isOpen) this.#openNow(listener)
    const ready = this.#redirect?.ready()
    if (ready !== undefined) return ready.then(() => this.#obstacle(listeners))
    return this.#obstacle(listeners)
  }

  /** The ports of a name that lead to another program, and to which; for `resolve` and `trace`. */
  async obstacles({ vip }: Target): Promise<Obstacle[]> {
    const failed = [...(this.#byVip.get(vip) ?? [])].filter(({ problem }) => problem !== undefined)
    const found = await Promise.all(
      failed.map(async ({ at, obstacle }) => ({ port: at.port, protocol: at.protocol, reason: await obstacle() })),
    )
    return found.filter((each): each is Obstacle => each.reason !== undefined)
  }

  problems(): Problem[] {
    return Array.from(this.#listeners.values(), ({ problem }) => problem).filter((problem) => problem !== undefined)
  }

  /** Tries again what failed; also called every `retryMs`. */
  retry(): void {
    for (const listener of this.#listeners.values()) if (listener.problem !== undefined) this.#enqueue(listener)
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  // which listeners there should be

  #follow(service: ServiceId, entry: ServiceEntry | undefined): void {
    if (this.#isClosed) return
    const wanted = entry === undefined ? [] : this.#portsOf(entry)
    const keys = new Set(wanted.map(({ key }) => key))
    for (const key of this.#byService.get(service) ?? []) {
      const listener = this.#listeners.get(key)
      if (!keys.has(key) && listener?.at.service === service) this.#remove(listener)
    }
    for (const at of wanted) {
      const known = this.#listeners.get(at.key)
      if (known?.at.service === service) continue
      if (known !== undefined) this.#remove(known) // the VIP has a new owner
      if (this.#hasRoomFor(at)) this.#enqueue(this.#add(at))
    }
    const kept = new Set(Array.from(keys).filter((key) => this.#listeners.get(key)?.at.service === service))
    if (kept.size === 0) this.#byService.delete(service)
    else this.#byService.set(service, kept)
  }

  #hasRoomFor({ key, isOfAny }: VipPort): boolean {
    if (this.#prepared.has(key)) return true
    const { limit } = this.#settings
    return this.#open + this.#queue.size < (isOfAny ? limit : limit * NUMBERED_SHARE)
  }

  /** The listeners of a VIP that was beyond the limit until now. */
  #addLate(service: ServiceId, wanted: VipIndex): Iterable<VipListener> {
    const entry = this.#parts.table.entry(service)
    if (this.#isClosed || entry === undefined) return []
    const ports = this.#portsOf(entry).filter(({ vip }) => vip === wanted)
    const keys = this.#byService.get(service) ?? new Set()
    for (const { key } of ports) keys.add(key)
    if (keys.size > 0) this.#byService.set(service, keys)
    if (this.#prepared.size >= this.#settings.limit) this.#prepared.clear()
    for (const { key } of ports) this.#prepared.add(key)
    return ports.map((at) => this.#add(at))
  }

  #portsOf(entry: ServiceEntry): VipPort[] {
    return vipPortsOf(entry, this.#settings.range, { takesDatagrams: this.#parts.onDatagramClient !== undefined })
  }

  #add(at: VipPort): VipListener {
    const listener = new VipListener(at, this.#owner)
    this.#listeners.set(at.key, listener)
    const sameVip = this.#byVip.get(at.vip)
    if (sameVip === undefined) this.#byVip.set(at.vip, new Set([listener]))
    else sameVip.add(listener)
    return listener
  }

  #remove(listener: VipListener): void {
    const { key, vip } = listener.at
    this.#listeners.delete(key)
    this.#queue.delete(listener)
    const sameVip = this.#byVip.get(vip)
    sameVip?.delete(listener)
    if (sameVip?.size === 0) this.#byVip.delete(vip)
    listener.close()
  }

  // opening and closing

  #enqueue(listener: VipListener): void {
    this.#queue.add(listener)
    if (this.#queue.size === 1) setImmediate(() => this.#openBatch())
  }

  #openBatch(): void {
    let left = BATCH
    for (const listener of this.#queue) {
      if (left-- === 0) break
      this.#openNow(listener)
    }
    if (this.#queue.size > 0) setImmediate(() => this.#openBatch())
  }

  #openNow(listener: VipListener): void {
    this.#queue.delete(listener)
    const { key, port, protocol } = listener.at
    if (this.#isClosed || this.#listeners.get(key) !== listener) return
    listener.open(this.#redirect?.listeningPort(port, protocol) ?? port)
  }

  /** The rules in the kernel are gone: the ports are bound as they are. */
  #rebind(): void {
    for (const listener of this.#listeners.values()) {
      listener.close()
      this.#enqueue(listener)
    }
  }

  async #closeAll(): Promise<void> {
    this.#isClosed = true
    const servers = Array.from(this.#listeners.values(), ({ server }) => server)
    await closeWhenIdle(servers.filter(isServer), 'connection')
    for (const listener of this.#listeners.values()) this.#remove(listener)
  }

  #count(change: 1 | -1): void {
    this.#open += change
    this.#parts.metrics.listeners.set({ mode: this.#settings.mode }, this.#open)
  }

  // what fails

  #logOnce({ service, address, port, protocol }: VipPort, { code, reason, remedy }: Problem): void {
    const once = `${service} ${port}/${protocol} ${code}`
    if (this.#logged.has(once)) return
    this.#logged.add(once)
    this.#parts.log.warn('cannot listen at a VIP', { service, address, port, reason, remedy })
  }

  /** Another program has every port of the VIP, so calls to it would reach that program. */
  #obstacle(listeners: Iterable<VipListener>): Prepared | Promise<Prepared> {
    let first: VipListener | undefined
    for (const listener of listeners) {
      if (listener.problem === undefined) return undefined
      first ??= listener
    }
    return first?.obstacle()
  }
}

interface World {
  identify: Identify
  parts: InterceptParts
}

function isServer(server: Server | undefined): server is Server {
  return server?.listening === true
}
