import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { systemClock, type Clock } from './clock.ts'
import { Lifetime } from './lifetime.ts'
import { readNetwork, whatChanged, type InterfaceFilter, type Network } from './network.ts'

/** `woke`: this machine or process stood still for a while, and others may have given it up. */
export interface NetworkChange extends Network {
  reason: 'addresses' | 'route' | 'woke'
}

export interface NetworkWatchOptions {
  /** Which interfaces matter; of the others an address may come and go unheard. */
  counts?: InterfaceFilter
  /** What is there now. */
  read?: (counts: InterfaceFilter) => Network
  clock?: Clock
  /** Calls `heard` when the kernel says that something has changed, `ended` when it cannot say so any more. */
  monitor?: typeof monitorKernel
}

/** The kernel tells of one change in several messages: what comes within this is one. Larger: later noticed. */
const DEBOUNCE_MS = 200
const TICK_MS = 1_000
/** Looks without being told: each tick where the kernel does not tell, and rarely where it does. */
const TICKS_WHEN_TOLD = 10
/** A tick so much too late, or a wall clock so much ahead of the monotonic one, which stands still in a suspended machine. */
const ASLEEP_MS = 4_000

/**
 * Notices that the machine's network is another one: addresses, default routes, or time that was slept through.
 *
 *     kernel: link, address, route ─┐
 *     every second (ten, if told) ──┴─▶ 200 ms ─▶ look: another address or default route? ─▶ listeners
 *     a clock that leapt ─────────────────────────────────────────────────────────────────▶ listeners
 */
export class NetworkWatch implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #look: () => Network
  readonly #listeners = new Set<(change: NetworkChange) => void>()
  #network: Network
  #isTold = true
  #planned: (() => void) | undefined
  #nextTick: (() => void) | undefined
  #ticks = 0
  #tickedAt: Moment

  private constructor(life: Lifetime, { counts = () => true, read = readNetwork, clock }: NetworkWatchOptions) {
    this.#life = life
    this.#clock = clock ?? systemClock
    this.#look = () => read(counts)
    this.#network = this.#look()
    this.#tickedAt = this.#moment()
  }

  static start(options: NetworkWatchOptions = {}): NetworkWatch {
    const { monitor = monitorKernel } = options
    const life = new Lifetime()
    const watch = new NetworkWatch(life, options)
    life.defer(() => {
      watch.#planned?.()
      watch.#nextTick?.()
    })
    life.use(
      monitor({
        heard: () => watch.#plan(),
        ended: () => {
          watch.#isTold = false
        },
      }),
    )
    watch.#arm()
    return watch
  }

  /** As it was when it was looked at last. */
  get network(): Network {
    return this.#network
  }

  /** Whether the kernel says when something changes; else it is looked at every second. */
  get isMonitored(): boolean {
    return this.#isTold
  }

  onChange(listener: (change: NetworkChange) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  /** A stream of messages does not put the look off. */
  #plan(): void {
    if (this.#life.signal.aborted) return
    this.#planned ??= this.#clock.after(DEBOUNCE_MS, () => {
      this.#planned = undefined
      this.#compare()
    })
  }

  #arm(): void {
    this.#nextTick = this.#clock.after(TICK_MS, () => {
      this.#tick()
      this.#arm()
    })
  }

  #tick(): void {
    const now = this.#moment()
    const hasSlept = hasStoodStill(this.#tickedAt, now)
    this.#tickedAt = now
    this.#ticks += 1
    if (hasSlept) {
      this.#network = this.#look()
      this.#tell('woke')
    } else if (!this.#isTold || this.#ticks % TICKS_WHEN_TOLD === 0) this.#compare()
  }

  #compare(): void {
    const before = this.#network
    this.#network = this.#look()
    const reason = whatChanged(before, this.#network)
    if (reason !== undefined) this.#tell(reason)
  }

  #tell(reason: NetworkChange['reason']): void {
    for (const listener of this.#listeners) listener({ ...this.#network, reason })
  }

  #moment(): Moment {
    return { nowMs: this.#clock.now(), wallMs: this.#clock.wall() }
  }
}

export interface Moment {
  nowMs: number
  wallMs: number
}

/** Whether more time has gone by between two ticks than there should. */
export function hasStoodStill(before: Moment, after: Moment): boolean {
  const passed = after.nowMs - before.nowMs
  const onTheWall = after.wallMs - before.wallMs
  return passed > TICK_MS + ASLEEP_MS || onTheWall - passed > ASLEEP_MS
}

const TOOLS = ['/usr/sbin', '/sbin', '/usr/bin', '/bin']
/** `read` ends with this process, however that ends, and `ip` with it: it would else live until its next message. */
const SCRIPT = 'ip monitor link address route & exec >&-; read _; kill $!'

/** Node cannot open a netlink socket; iproute2's `ip` can. */
export function monitorKernel({ heard, ended }: { heard: () => void; ended: () => void }): Disposable {
  if (!TOOLS.some((folder) => existsSync(`${folder}/ip`))) {
    ended()
    return { [Symbol.dispose]: () => undefined }
  }
  const child = spawn('/bin/sh', ['-c', SCRIPT], {
    stdio: ['pipe', 'pipe', 'ignore'],
    env: { PATH: TOOLS.join(':') },
  })
  child.on('error', ended)
  child.stdin.on('error', () => undefined)
  child.stdout.on('error', () => undefined)
  child.stdout.on('data', heard)
  child.stdout.on('end', ended) // `ip` has ended
  child.unref()
  for (const pipe of [child.stdin, child.stdout]) (pipe as unknown as { unref(): void }).unref()
  return {
    [Symbol.dispose]: () => {
      child.stdout.removeAllListeners()
      child.stdout.on('error', () => undefined).destroy()
      child.stdin.destroy()
    },
  }
}
