import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { systemClock, type Clock } from './clock.ts'
import { Lifetime } from './lifetime.ts'
import { readNetwork, whatChanged, type InterfaceFilter, type Network } from './network.ts'

/** `woke`: this machine or process was suspended for a while, and others may have given it up. */
export interface NetworkChange extends Network {
  reason: 'addresses' | 'route' | 'woke'
}

export interface NetworkWatchOptions {
  /** Which interfaces matter; changes of the others are ignored. */
  isOutward?: InterfaceFilter
  /** Reads the present state. */
  read?: (isOutward: InterfaceFilter) => Network
  clock?: Clock
  /** Calls `onEvent` when the kernel reports a change, `onEnd` when it can no longer report any. */
  monitor?: typeof monitorKernel
}

/** The kernel reports one change in several messages: those within this time count as one. Larger: noticed later. */
const DEBOUNCE_MS = 200
const TICK_MS = 1_000
/** Compares without an event: at each tick where the kernel reports nothing, and once in this many ticks where it does. */
const TICKS_WHEN_MONITORED = 10
/** A tick this much too late, or a wall clock this much ahead of the monotonic one, which stops while a machine is suspended. */
const ASLEEP_MS = 4_000

/**
 * Notices that the machine's network has changed (addresses or default routes), or that the machine was suspended.
 *
 *     kernel: link, address, route ──────────┐
 *     every second (every ten, if monitored) ┴─▶ 200 ms ─▶ another address or default route? ─▶ listeners
 *     a clock that jumped ──────────────────────────────────────────────────────────────────▶ listeners
 */
export class NetworkWatch implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #read: () => Network
  readonly #listeners = new Set<(change: NetworkChange) => void>()
  #network: Network
  #isMonitored = true
  #planned: (() => void) | undefined
  #nextTick: (() => void) | undefined
  #ticks = 0
  #tickedAt: Moment

  private constructor(life: Lifetime, { isOutward = () => true, read = readNetwork, clock }: NetworkWatchOptions) {
    this.#life = life
    this.#clock = clock ?? systemClock
    this.#read = () => read(isOutward)
    this.#network = this.#read()
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
        onEvent: () => watch.#plan(),
        onEnd: () => {
          watch.#isMonitored = false
        },
      }),
    )
    watch.#arm()
    return watch
  }

  /** As it was last read. */
  get network(): Network {
    return this.#network
  }

  /** Whether the kernel reports changes; otherwise the network is compared every second. */
  get isMonitored(): boolean {
    return this.#isMonitored
  }

  onChange(listener: (change: NetworkChange) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  /** A stream of messages does not delay the comparison. */
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
    const wasSuspended = hasStoodStill(this.#tickedAt, now)
    this.#tickedAt = now
    this.#ticks += 1
    if (wasSuspended) {
      this.#network = this.#read()
      this.#notify('woke')
    } else if (!this.#isMonitored || this.#ticks % TICKS_WHEN_MONITORED === 0) this.#compare()
  }

  #compare(): void {
    const before = this.#network
    this.#network = this.#read()
    const reason = whatChanged(before, this.#network)
    if (reason !== undefined) this.#notify(reason)
  }

  #notify(reason: NetworkChange['reason']): void {
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

/** Whether more time has passed between two ticks than there should. */
export function hasStoodStill(before: Moment, after: Moment): boolean {
  const passed = after.nowMs - before.nowMs
  const onTheWall = after.wallMs - before.wallMs
  return passed > TICK_MS + ASLEEP_MS || onTheWall - passed > ASLEEP_MS
}

const TOOLS = ['/usr/sbin', '/sbin', '/usr/bin', '/bin']
/** `read` ends with this process, however it ends, and `ip` with it; otherwise `ip` would live on until its next message. */
const SCRIPT = 'ip monitor link address route & exec >&-; read _; kill $!'

/** Node cannot open a netlink socket; iproute2's `ip` can. */
export function monitorKernel({ onEvent, onEnd }: { onEvent: () => void; onEnd: () => void }): Disposable {
  if (!TOOLS.some((folder) => existsSync(`${folder}/ip`))) {
    onEnd()
    return { [Symbol.dispose]: () => undefined }
  }
  const child = spawn('/bin/sh', ['-c', SCRIPT], {
    stdio: ['pipe', 'pipe', 'ignore'],
    env: { PATH: TOOLS.join(':') },
  })
  child.on('error', onEnd)
  child.stdin.on('error', () => undefined)
  child.stdout.on('error', () => undefined)
  child.stdout.on('data', onEvent)
  child.stdout.on('end', onEnd) // `ip` has ended
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
