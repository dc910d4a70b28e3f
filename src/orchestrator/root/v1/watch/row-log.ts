/** What can be watched, beside the events. */
export const ROW_KINDS = ['services', 'instances', 'nodes', 'clusters'] as const
export type RowKind = (typeof ROW_KINDS)[number]

/** A row as JSON; `undefined`: it is gone. */
export interface RowChange {
  number: number
  kind: RowKind
  id: string
  text: string | undefined
}

/** So many changes are kept for those who come back. Smaller sends whole lists more often, larger holds more in memory. */
const KEPT = 20_000

/**
 * The rows of each kind as they are, and the last changes, numbered. A reader that was away, or is slow, goes on behind the last number
 * that it has; when that is forgotten, it takes everything anew.
 */
export class RowLog {
  readonly #most: number
  readonly #rows: Record<RowKind, Map<string, { text: string; mark: string }>> = {
    services: new Map(),
    instances: new Map(),
    nodes: new Map(),
    clusters: new Map(),
  }
  /** In the order of their numbers, without gaps. */
  #changes: RowChange[] = []
  #last = 0

  constructor(most = KEPT) {
    this.#most = most
  }

  get last(): number {
    return this.#last
  }

  /** `mark`: the part of the row whose change is told; what changes all the time is not in it. */
  put(kind: RowKind, id: string, text: string, mark = text): void {
    const rows = this.#rows[kind]
    const isNew = rows.get(id)?.mark !== mark
    rows.set(id, { text, mark })
    if (isNew) this.#add({ number: this.#last + 1, kind, id, text })
  }

  /** All but these are gone. */
  keepOnly(kind: RowKind, has: (id: string) => boolean): void {
    const rows = this.#rows[kind]
    for (const id of rows.keys()) {
      if (has(id)) continue
      rows.delete(id)
      this.#add({ number: this.#last + 1, kind, id, text: undefined })
    }
  }

  /** The oldest of those behind the number; `undefined` when some of them are forgotten, or the number is none of ours. */
  after(number: number, most: number): RowChange[] | undefined {
    const first = this.#last - this.#changes.length
    if (number < first || number > this.#last) return undefined
    return this.#changes.slice(number - first, number - first + most)
  }

  /** Every row of a kind. */
  rows(kind: RowKind): { id: string; text: string }[] {
    return Array.from(this.#rows[kind], ([id, { text }]) => ({ id, text }))
  }

  /** What was known is not kept up to date from now on; numbers go on. */
  clear(): void {
    for (const rows of Object.values(this.#rows)) rows.clear()
    this.#changes = []
    this.#last++
  }

  #add(change: RowChange): void {
    this.#last = change.number
    this.#changes.push(change)
    if (this.#changes.length > this.#most * 1.25) this.#changes = this.#changes.slice(-this.#most)
  }
}
