import type { Clock } from '../../core/kit/clock.ts'
import type { UsageRow } from '../link/messages/both.ts'
import type { Clusters } from './clusters.ts'

/** The pages of one list have the same answer. Smaller asks every node for each page; larger shows what was. */
const KEPT_MS = 1_000

/** What instances use now, of the clusters that answer; those of earlier versions do not know the question. */
export class Usages {
  readonly #clusters: Pick<Clusters, 'all'>
  readonly #clock: Pick<Clock, 'now'>
  #last: { at: number; rows: Promise<Map<string, UsageRow>> } | undefined

  constructor(clusters: Pick<Clusters, 'all'>, clock: Pick<Clock, 'now'>) {
    this.#clusters = clusters
    this.#clock = clock
  }

  list(): Promise<Map<string, UsageRow>> {
    const at = this.#clock.now()
    if (this.#last === undefined || at - this.#last.at > KEPT_MS) this.#last = { at, rows: this.#ask() }
    return this.#last.rows
  }

  async #ask(): Promise<Map<string, UsageRow>> {
    const lists = await Promise.all(
      Array.from(
        this.#clusters.all(),
        async ({ link }) => (await link.request('usage.list', {}).catch(() => ({ usage: [] }))).usage,
      ),
    )
    return new Map(lists.flat().map((row) => [row.instance, row]))
  }
}
