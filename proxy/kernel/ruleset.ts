import { explain } from '../../src/core/errors.ts'
import type { VipRange } from '../../src/core/model/address.ts'
import type { Kernel } from './kernel.ts'
import {
  change,
  empty,
  isSameShape,
  remove,
  replaceOwn,
  restore,
  type Rows,
  type TableNames,
  takeOver,
} from './rules.ts'
import type { FlowCounts } from './flow-counts.ts'

export interface Fault {
  reason: string
  remedy: string
}

/** `none`: the kernel has no rows of ours. `stale`: it has rows that may be wrong and could not be removed. */
export type Outcome =
  | { kind: 'done' }
  /** A successor has the table. */
  | { kind: 'followed' }
  | { kind: 'failed'; left: 'none' | 'stale'; fault: Fault; cause: unknown }

/** Counters without a use; with more of them, the table is replaced by one without. Smaller: more replacements; larger: slower reads. */
const UNUSED_LIMIT = 4_096

/** Our table in the kernel: what is in it, and how it is changed. One call at a time. */
export class Ruleset {
  readonly #names: TableNames
  readonly #kernel: Kernel
  readonly #counts: FlowCounts
  /** `undefined`: not set up. */
  #rows: Rows | undefined
  /** Rows that could not be removed are there. */
  #isStale = false

  constructor(names: TableNames, kernel: Kernel, counts: FlowCounts) {
    this.#names = names
    this.#kernel = kernel
    this.#counts = counts
  }

  get rows(): Rows {
    return this.#rows ?? new Map()
  }

  async put(rows: Rows): Promise<Outcome> {
    if (this.#rows === undefined) return this.#begin(rows, this.#names.range)
    const { counters } = this.#counts
    const isNew = counters.size > rows.size * 8 + UNUSED_LIMIT || !isSameShape(this.#rows, rows)
    if (isNew) await this.#counts.read(this.#names.table).catch(() => undefined)
    const text = isNew ? replaceOwn(this.#names, rows) : change(this.#names, this.#rows, rows)
    if (text === '') return { kind: 'done' }
    const failure = await this.#failure(text)
    return failure === undefined ? this.#took(rows, isNew) : this.renew(rows, failure.cause)
  }

  /** Sets up everything again; leaves the table of a successor alone; or at least removes what may be wrong. */
  async renew(rows: Rows, cause: unknown): Promise<Outcome> {
    if ((await this.#failure(replaceOwn(this.#names, rows))) === undefined) return this.#took(rows, true)
    const failure = await this.#failure(restore(this.#names, rows))
    if (failure === undefined) return this.#took(rows, true)
    if (/File exists/.test(explain(failure.cause)) && (await this.isFollowed())) return { kind: 'followed' }
    const removal = await this.#failure(remove(this.#names))
    const isGone = removal === undefined || isAbsent(removal.cause)
    if (isGone) this.#took(new Map(), true)
    this.#rows = undefined
    this.#isStale = !isGone
    return this.#failed(cause)
  }

  /** New flows go through user space; open ones go on. */
  async rest(): Promise<void> {
    if (this.#rows !== undefined) await this.#failure(empty(this.#names, this.#rows)) // a successor's, if it fails
  }

  /** Open flows end with the table, unless a successor has it. */
  async remove(): Promise<void> {
    if (this.#rows !== undefined) await this.#failure(remove(this.#names))
    this.#rows = undefined
  }

  async #begin(rows: Rows, range: VipRange): Promise<Outcome> {
    try {
      await this.#kernel.apply(takeOver(this.#names, rows))
      this.#took(rows, true)
      await this.#kernel.leaveFromLoopback(range)
      return { kind: 'done' }
    } catch (cause) {
      await this.remove()
      return this.#failed(cause)
    }
  }

  #failed(cause: unknown): Outcome {
    return { kind: 'failed', left: this.#isStale ? 'stale' : 'none', fault: faultOf(cause), cause }
  }

  #took(rows: Rows, isNew: boolean): Outcome {
    this.#rows = rows
    this.#isStale = false
    this.#counts.took(rows, isNew)
    return { kind: 'done' }
  }

  /** Our mark is gone: the table belongs to a successor, or there is none. */
  async isFollowed(): Promise<boolean> {
    const { table, owner } = this.#names
    const failure = await this.#failure(`flush chain inet ${table} ${owner}\n`)
    return failure !== undefined && isAbsent(failure.cause)
  }

  #failure(text: string): Promise<{ cause: unknown } | undefined> {
    return this.#kernel.apply(text).then(
      () => undefined,
      (cause: unknown) => ({ cause }),
    )
  }
}

function isAbsent(error: unknown): boolean {
  return /Error: .*No such file or directory/.test(explain(error))
}

function faultOf(error: unknown): Fault {
  const text = explain(error)
  if (/spawn nft ENOENT/.test(text)) {
    return { reason: 'nft is not installed', remedy: 'install nftables, or turn the fast path off' }
  }
  if (/not permitted|EPERM|EACCES/i.test(text)) {
    const remedy = 'run the agent as root or with CAP_NET_ADMIN, or turn the fast path off'
    return { reason: 'no right to set rules in the kernel', remedy }
  }
  return { reason: text.split('\n').slice(0, 3).join(' '), remedy: 'see the reason; it is retried every 10 s' }
}
