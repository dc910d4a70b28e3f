import type { Clock } from '../../src/core/kit/clock.ts'
import type { ServiceId } from '../../src/core/model/ids.ts'
import type { VipIndex } from '../../src/core/model/service.ts'

/*
 *   name answered ──┐
 *   flow to a VIP ──┴─note─▶ held ──▶ forgotten   neither asked for nor called for FORGET_MS,
 *                            │                    or to make room: the one that was unused for longest
 *                            └ another service has the VIP and is asked for or called: held for that one
 *
 * A VIP that was handed out once may be held by a program for as long as that runs (nginx and the JVM look a name up once), also over a
 * restart of the agent.
 */

/** A VIP that a program may hold. */
export interface HeldVip {
  readonly service: ServiceId
  readonly vip: VipIndex
  /** For how long nobody has asked for it nor called it, while an agent ran. */
  readonly idleMs: number
}

/**
 * A week, in which most of what is called from time to time comes round. Smaller: such a caller is refused when it holds the
 * address; larger: a port is kept from servers of the machine for longer.
 */
export const FORGET_MS = 7 * 24 * 3_600_000

/** Handed out so recently that the answer may still be in a cache: it is not given up for another. */
const FRESH_MS = 120_000

const NONE: ReadonlySet<VipIndex> = new Set()

/** Which VIPs of this node programs may hold. */
export class AskedVips {
  readonly #clock: Clock
  readonly #limit: number
  readonly #held = new Map<VipIndex, Held>()
  readonly #byService = new Map<ServiceId, Set<VipIndex>>()
  /** What should be written down has changed. */
  onChange: () => void = () => undefined
  /** It is not held any more. */
  onForgotten: (service: ServiceId) => void = () => undefined

  /** `limit`: larger costs memory, and a descriptor for each port where there are no rights. */
  constructor(clock: Clock, limit = 4_096) {
    this.#clock = clock
    this.#limit = limit
  }

  get size(): number {
    return this.#held.size
  }

  has(vip: VipIndex, service: ServiceId): boolean {
    return this.#held.get(vip)?.service === service
  }

  of(service: ServiceId): ReadonlySet<VipIndex> {
    return this.#byService.get(service) ?? NONE
  }

  /** There is no room for another, except in place of one that was handed out a moment ago. */
  get isCrowded(): boolean {
    return this.#held.size >= this.#limit && this.#clock.now() - this.#oldest().usedAt < FRESH_MS
  }

  /** It is handed out, or called. */
  note(vip: VipIndex, service: ServiceId): void {
    if (this.has(vip, service)) {
      this.touch(vip)
      return
    }
    this.#remove(vip) // of another service
    if (this.#held.size >= this.#limit) this.#forget(this.#oldest().vip)
    this.#add(vip, service, this.#clock.now())
    this.onChange()
  }

  /** It is in use. */
  touch(vip: VipIndex): void {
    const held = this.#held.get(vip)
    if (held !== undefined) held.usedAt = this.#clock.now()
  }

  /** It was not handed out after all. */
  drop(vip: VipIndex): void {
    if (this.#remove(vip) !== undefined) this.onChange()
  }

  /** Those that nobody has used for this long. */
  idle(forMs: number): VipIndex[] {
    const before = this.#clock.now() - forMs
    return [...this.#held].filter(([, { usedAt }]) => usedAt <= before).map(([vip]) => vip)
  }

  /** Forgets what nobody has used for long. */
  sweep(): void {
    for (const vip of this.idle(FORGET_MS)) this.#forget(vip)
    this.onChange() // the others are older now
  }

  snapshot(): HeldVip[] {
    const now = this.#clock.now()
    return Array.from(this.#held, ([vip, { service, usedAt }]) => ({ service, vip, idleMs: Math.round(now - usedAt) }))
  }

  /** Adds what another agent has noted. Returns what was new, by service. */
  take(noted: readonly HeldVip[]): Set<ServiceId> {
    const now = this.#clock.now()
    const added = new Set<ServiceId>()
    for (const { service, vip, idleMs } of noted) {
      if (this.#held.has(vip) || this.#held.size >= this.#limit) continue
      this.#add(vip, service, now - idleMs)
      added.add(service)
    }
    if (added.size > 0) this.onChange()
    return added
  }

  #add(vip: VipIndex, service: ServiceId, usedAt: number): void {
    this.#held.set(vip, { service, usedAt })
    const vips = this.#byService.get(service)
    if (vips === undefined) this.#byService.set(service, new Set([vip]))
    else vips.add(vip)
  }

  #remove(vip: VipIndex): ServiceId | undefined {
    const held = this.#held.get(vip)
    if (held === undefined) return undefined
    this.#held.delete(vip)
    const vips = this.#byService.get(held.service)
    vips?.delete(vip)
    if (vips?.size === 0) this.#byService.delete(held.service)
    return held.service
  }

  #forget(vip: VipIndex): void {
    const service = this.#remove(vip)
    if (service !== undefined) this.onForgotten(service)
  }

  #oldest(): { vip: VipIndex; usedAt: number } {
    let oldest = { vip: -1, usedAt: Infinity }
    for (const [vip, { usedAt }] of this.#held) if (usedAt < oldest.usedAt) oldest = { vip, usedAt }
    return oldest
  }
}

interface Held {
  readonly service: ServiceId
  usedAt: number
}
