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
import { AskedVips, type HeldVip } from './asked-vips.ts'
import type { Identify, InterceptParts, Interceptor, Problem } from './interceptor.ts'
import { mayUseNft, type Nft } from './nft.ts'
import { withFreePort } from './listen-problem.ts'
import { ListenerIndex } from './listener-index.ts'
import { OpeningQueue } from './opening-queue.ts'
import { PortRedirect } from './port-redirect.ts'
import { VipCalls } from './vip-calls.ts'
import { VipListener, type VipListenerOwner } from './vip-listener.ts'
import type { VipPort } from './vip-ports.ts'
import { WantedPorts } from './wanted-ports.ts'

/*
 *   table change ─▶ queued ─▶ open ─▶ closed (gone from the table, or no instance; its open flows go on)
 *                     ▲         │
 *                     └─ failed ◀ the port is taken, a right is missing: logged once, tried again
 *
 * One that has failed and that nobody needs now, since no instance runs or its name was not answered, rests: it is not tried, and what
 * it says stays for `check` while it is true.
 *
 * With rights there is one listener for each VIP and port of every service in the table, which holds only what this node uses.
 * They listen at ports that no server of the machine wants (port-redirect.ts). Beyond `limit` only VIPs that were asked for are
 * opened, and nothing is kept for the others.
 *
 * Without rights there are listeners only where somebody may call (wanted-ports.ts), since each takes a port from the machine.
 *
 * Listeners are opened in batches; `prepare` opens those of a name before it is answered.
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
  /** What programs may hold already; absent: nothing. */
  asked?: AskedVips
}

type Settings = Required<Omit<VipListenersOptions, 'nft' | 'asked'>>

/** How often VIPs that nobody uses are looked for. Larger: one that has an open flow may look unused for longer. */
const SWEEP_MS = 3_600_000
/** Why a name is not answered while programs ask for very many others. */
const NO_ROOM = 'too many addresses were handed out within two minutes; without rights each needs a listener'

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
  readonly #listeners = new ListenerIndex()
  readonly #queue = new OpeningQueue((listener) => this.#openNow(listener))
  readonly #wanted: WantedPorts
  readonly #asked: AskedVips
  readonly #resting = new Set<VipListener>()
  readonly #logged = new Set<string>()
  #open = 0
  #isClosed = false

  private constructor(life: Lifetime, settings: Settings, redirect: PortRedirect | undefined, world: World) {
    this.#life = life
    this.#settings = settings
    this.#redirect = redirect
    this.#parts = world.parts
    this.#asked = world.asked
    const takesDatagrams = world.parts.onDatagramClient !== undefined
    const hasRights = () => redirect?.isOn === true
    this.#wanted = new WantedPorts({ ...settings, takesDatagrams, asked: world.asked, hasRights })
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
      const { nft, asked = new AskedVips(parts.clock), ...given } = options
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
      const listeners = new VipListeners(life, settings, redirect, { identify, parts, asked })
      if (redirect !== undefined) redirect.onLost = () => listeners.#rebind()
      asked.onForgotten = (service) => listeners.#follow(service, parts.table.entry(service))
      life.defer(() => listeners.#closeAll())
      life.defer(parts.table.onChange((service, entry) => listeners.#follow(service, entry)))
      life.every(settings.retryMs, () => listeners.retry(), 'vip listeners')
      life.every(SWEEP_MS, () => listeners.forgetUnused(), 'asked vips')
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

  /** Ports that no server of the machine can have at every address, since a VIP listens there; none with rights. */
  get heldPorts(): string[] {
    if (this.rules.isOn) return []
    const open = this.#listeners.all().filter(({ isOpen }) => isOpen)
    return [...new Set(open.map(({ at }) => `${at.port}/${at.protocol}`))]
  }

  /**
   * Called before a name is answered: its listeners are open when this is done, hence before the answer leaves. Costs two
   * look-ups when they are open already.
   */
  prepare(target: Target): Prepared | Promise<Prepared> {
    if (this.#isClosed) return undefined // whoever takes over from this agent has them open
    const { vip, service } = target
    const wasHeld = this.#asked.has(vip, service.id)
    if (!wasHeld && !this.rules.isOn && this.#asked.isCrowded) return NO_ROOM
    this.#asked.note(vip, service.id)
    this.#openFor(target)
    const ready = this.#redirect?.ready()
    if (ready === undefined) return this.#prepared(target, wasHeld)
    return ready.then(() => {
      this.#openFor(target) // the rights may be lost by now
      return this.#prepared(target, wasHeld)
    })
  }

  /** Opens what the agent before this one has handed out. */
  async adopt(held: readonly HeldVip[]): Promise<void> {
    for (const service of this.#asked.take(held)) this.#follow(service, this.#parts.table.entry(service))
    await this.settled()
  }

  /** The ports of a name that lead to another program, and to which; for `resolve` and `trace`. */
  async obstacles({ vip }: Target): Promise<Obstacle[]> {
    const failed = this.#listeners.ofVip(vip).filter(({ problem }) => problem !== undefined)
    const found = await Promise.all(
      failed.map(async ({ at, obstacle }) => ({ port: at.port, protocol: at.protocol, reason: await obstacle() })),
    )
    return found.filter((each): each is Obstacle => each.reason !== undefined)
  }

  problems(): Problem[] {
    return this.#listeners
      .all()
      .map(({ problem }) => problem)
      .filter((problem) => problem !== undefined)
  }

  /**
   * Tries again what failed; also called every `retryMs`. What nobody needs is not tried: a name that was not answered is left to its
   * next question, since the program in its place may be about to start again, and must find its port.
   */
  async retry(): Promise<void> {
    const idle: VipListener[] = []
    for (const listener of this.#listeners.all()) {
      if (listener.problem === undefined) continue
      if (this.#isNeeded(listener)) this.#queue.add(listener)
      else idle.push(listener)
    }
    for (const listener of await withFreePort(idle)) {
      if (this.#listeners.get(listener.at.key) === listener && !this.#isNeeded(listener)) this.#remove(listener)
    }
  }

  /** Gives up VIPs that nobody has asked for or called in a long time; also called every hour. An open flow counts as a call. */
  async forgetUnused(): Promise<void> {
    for (const vip of this.#asked.idle(SWEEP_MS)) {
      for (const listener of this.#listeners.ofVip(vip)) if (await listener.hasFlows()) this.#asked.touch(vip)
    }
    this.#asked.sweep()
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
    const wanted = entry === undefined ? [] : this.#wanted.of(entry)
    const keys = new Set(wanted.map(({ key }) => key))
    this.#settle(
      this.#listeners.ofService(service).filter(({ at }) => !keys.has(at.key)),
      entry,
    )
    for (const at of wanted) {
      const known = this.#listeners.get(at.key)
      if (known !== undefined && this.#resting.delete(known)) this.#queue.add(known)
      if (known?.at.service === service) continue
      if (known !== undefined) this.#remove(known) // the VIP has a new owner
      if (this.#wanted.hasRoomFor(at, this.#open + this.#queue.size)) this.#add(at)
    }
  }

  /** Those that are not needed close, or rest. */
  #settle(spare: readonly VipListener[], entry: ServiceEntry | undefined): void {
    const hasFailed = ({ problem }: VipListener) => problem !== undefined
    const known = entry !== undefined && spare.some(hasFailed) ? this.#wanted.knownTo(entry) : undefined
    for (const listener of spare) {
      if (!hasFailed(listener) || known?.has(listener.at.key) !== true) this.#remove(listener)
      else {
        this.#queue.remove(listener)
        this.#resting.add(listener)
      }
    }
  }

  #isNeeded(listener: VipListener): boolean {
    return !this.#resting.has(listener) && this.#wanted.isWanted(listener.at)
  }

  #add(at: VipPort): void {
    const listener = new VipListener(at, this.#owner)
    this.#listeners.add(listener)
    this.#queue.add(listener)
  }

  #remove(listener: VipListener): void {
    this.#listeners.remove(listener)
    this.#queue.remove(listener)
    this.#resting.delete(listener)
    listener.close()
  }

  // opening and closing

  #openFor({ vip, service }: Target): void {
    const needed = () => this.#listeners.ofVip(vip).filter((listener) => !this.#resting.has(listener))
    const isThere = needed().some(({ at }) => at.service === service.id)
    if (!isThere) this.#follow(service.id, this.#parts.table.entry(service.id))
    for (const listener of needed()) if (!listener.isOpen) this.#openNow(listener)
  }

  #openNow(listener: VipListener): void {
    this.#queue.remove(listener)
    const { key, port, protocol } = listener.at
    if (this.#isClosed || this.#listeners.get(key) !== listener) return
    listener.open(this.#redirect?.listeningPort(port, protocol) ?? port)
  }

  /** The rules in the kernel are gone: the ports are bound as they are, where somebody may call. */
  #rebind(): void {
    for (const entry of this.#parts.table.services()) this.#follow(entry.service.id, entry)
    for (const listener of this.#listeners.all()) {
      if (this.#resting.has(listener)) continue
      listener.close()
      this.#queue.add(listener)
    }
  }

  async #closeAll(): Promise<void> {
    this.#isClosed = true
    const servers = this.#listeners.all().map(({ server }) => server)
    await closeWhenIdle(servers.filter(isServer), 'connection')
    for (const listener of this.#listeners.all()) this.#remove(listener)
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

  /** A VIP that is not answered is not held by that; its problem stays for `check`. */
  #prepared({ vip }: Target, wasHeld: boolean): Prepared | Promise<Prepared> {
    return this.#blocked(vip)
      ?.obstacle()
      .then((found) => {
        if (found !== undefined && !wasHeld && this.#blocked(vip) !== undefined) this.#asked.drop(vip)
        return found
      })
  }

  /** A listener of a VIP of which no port is ours, so that calls may reach another program. */
  #blocked(vip: VipIndex): VipListener | undefined {
    const listeners = this.#listeners.ofVip(vip)
    return listeners.every(({ problem }) => problem !== undefined) ? listeners[0] : undefined
  }
}

interface World {
  identify: Identify
  parts: InterceptParts
  asked: AskedVips
}

function isServer(server: Server | undefined): server is Server {
  return server?.listening === true
}
