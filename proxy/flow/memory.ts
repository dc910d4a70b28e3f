import { background } from '../../src/core/kit/background.ts'
import { collectGarbage } from '../../src/core/kit/collect-garbage.ts'
import type { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { heapRoom } from '../../src/core/kit/memory.ts'
import { kernelMemory, type KernelMemory, type MemoryRoom } from '../../src/core/kit/memory-rooms.ts'
import type { Metrics } from '../../src/core/metrics.ts'

/*
 * The memory of this process. V8 aborts a process whose heap is full, and the kernel kills one at the limit of its control group or
 * of the machine, with all of its flows; so before that new flows are refused, and the flows that are open, the control link and the
 * instances go on.
 *
 *     0 ───────────────────────── new flows are taken ─────────────────────┬── reserve ──┤ limit: heap, control groups, machine
 *
 * The heap is asked when a flow comes, the kernel beside it: a flow never waits for its files.
 */

/** Asked at most this often. Larger: more flows are taken after the reserve is reached. */
const MEASURE_EVERY_MS = 100
/** The same for the kernel, whose files cost 1.5 ms of a fast processor. At 15 KB a flow, thousands of flows a second fit into the reserve meanwhile. */
const ASK_KERNEL_EVERY_MS = 500
/** The kernel is asked this often when no flow comes, so that `check` and the metric are true. */
const FOLLOW_EVERY_MS = 5_000
/** The share of the heap kept free. Smaller: V8 collects garbage all the time before flows are refused. */
const RESERVED_OF_HEAP = 0.15
/**
 * Kept free outside the heap: a share of a small limit, no more than these bytes of a large one, which instances may nearly fill for
 * good. V8 takes up to 64 MiB for new objects when it is busy, and flows hold more after they were let in than before. Smaller:
 * these reach the limit.
 */
const RESERVED = 0.25
const RESERVED_BYTES = 64 * 2 ** 20
/** Of the machine, which also has other programs: one of 1 GiB may be nearly full for good, with 50 MiB left for all. */
const RESERVED_OF_MACHINE = 0.03
/** Of the reserve, what the kernel itself must see free, whatever this process could use again. */
const FLOOR = 0.5
/** After a shortage, flows are taken again when this much more than the reserve is left, so that the state does not flap. */
const RECOVERED = 1.25

/** While the kernel has little left: sooner stands still more often; later takes flows again later. */
const COLLECT_EVERY_MS = 10_000

export interface MemoryOptions {
  heap?: () => MemoryRoom
  kernel?: () => Promise<KernelMemory>
  collect?: () => Promise<void>
  now?: () => number
}

export class Memory {
  readonly #options: Required<MemoryOptions>
  readonly #reports: { log: Log; metrics: Metrics }
  #measuredAt = Number.NEGATIVE_INFINITY
  #heap: MemoryRoom = { of: 'heap', limit: 0, left: 0 }
  #kernel: KernelMemory = { rooms: [], beside: 0 }
  /** `beside` when the kernel's memory was nearly full, the least of all times: what is more was freed since, and serves flows. */
  #besideInUse = Number.POSITIVE_INFINITY
  #isAsking = false
  #askedAt = Number.NEGATIVE_INFINITY
  #collectedAt = Number.NEGATIVE_INFINITY
  /** What is nearly full. */
  #scarce: MemoryRoom | undefined

  constructor(reports: { log: Log; metrics: Metrics }, options: MemoryOptions = {}) {
    this.#options = {
      heap: heapRoom,
      kernel: kernelMemory,
      collect: collectGarbage,
      now: () => performance.now(),
      ...options,
    }
    this.#reports = reports
  }

  /** Measures without flows, too, until the lifetime ends. */
  follow(life: Lifetime): this {
    life.every(FOLLOW_EVERY_MS, () => this.#update(), 'memory')
    this.#update()
    return this
  }

  /** Why a flow is refused, for its caller and the log; `undefined`: there is room. */
  get shortage(): string | undefined {
    this.#update()
    if (this.#scarce === undefined) return undefined
    return `${NAMES[this.#scarce.of]} of ${mebibytes(this.#scarce.limit)} is nearly full`
  }

  /** For `check`. */
  get report(): string {
    this.#update()
    const rooms = this.#rooms.map(
      ({ of, limit, left }) => `${mebibytes(Math.max(0, left))} left of ${mebibytes(limit)} of ${of}`,
    )
    return `${rooms.join(', ')}${this.#scarce === undefined ? '' : '; new flows are refused'}`
  }

  #update(): void {
    const now = this.#options.now()
    if (now - this.#measuredAt < MEASURE_EVERY_MS) return
    this.#measuredAt = now
    this.#heap = this.#options.heap()
    this.#judge()
    if (this.#isAsking || now - this.#askedAt < ASK_KERNEL_EVERY_MS) return
    this.#askedAt = now
    void background.run('memory', () => this.#askKernel())
  }

  get #rooms(): MemoryRoom[] {
    const { rooms, beside } = this.#kernel
    const freed = Math.max(0, beside - this.#besideInUse)
    const withFreed = (room: MemoryRoom) =>
      room.left < reserveOf(room) * FLOOR ? room : { ...room, left: room.left + freed }
    return [this.#heap, ...rooms.map(withFreed)]
  }

  /** What cannot be read now (no descriptor is free) stays as it was. */
  async #askKernel(): Promise<void> {
    this.#isAsking = true
    this.#kernel = await this.#options.kernel().catch(() => this.#kernel)
    this.#isAsking = false
    this.#judge()
    if (this.#scarce === undefined || this.#scarce.of === 'heap') return // V8 looks after its own limit
    const now = this.#options.now()
    if (now - this.#collectedAt < COLLECT_EVERY_MS) return
    this.#collectedAt = now
    await this.#options.collect()
  }

  #judge(): void {
    const factor = this.#scarce === undefined ? 1 : RECOVERED
    const short = this.#rooms.find((room) => room.left < reserveOf(room) * factor)
    if (short === undefined && this.#scarce !== undefined) this.#sayEnough(this.#scarce)
    if (short !== undefined && this.#scarce === undefined) this.#sayShort(short)
    this.#scarce = short
  }

  #sayShort({ of, limit, left, path }: MemoryRoom): void {
    const { log, metrics } = this.#reports
    metrics.memoryScarce.set(1)
    if (of !== 'heap') this.#besideInUse = Math.min(this.#besideInUse, this.#kernel.beside)
    if (of === 'heap') log.warn('the heap is nearly full; new flows are refused', { limit, left })
    else log.warn('memory is nearly full; new flows are refused', { of, limit, left, path })
  }

  #sayEnough({ of }: MemoryRoom): void {
    const { log, metrics } = this.#reports
    metrics.memoryScarce.set(0)
    if (of === 'heap') log.info('enough of the heap is free again')
    else log.info('enough memory is free again', { of })
  }
}

const NAMES = {
  heap: 'the heap',
  'control group': 'the memory of the control group',
  machine: 'the memory of the machine',
}

function reserveOf({ of, limit }: MemoryRoom): number {
  if (of === 'heap') return limit * RESERVED_OF_HEAP
  return Math.min(limit * (of === 'machine' ? RESERVED_OF_MACHINE : RESERVED), RESERVED_BYTES)
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`
}
