import type { Clock } from '../../core/kit/clock.ts'
import { clusterOf } from '../../core/model/ids.ts'
import type { RuledPath } from '../../core/model/path-rule.ts'
import { busiest } from '../link/busiest.ts'
import { type LinkOfNode, MOST_LINKS } from '../link/messages/both.ts'
import type { Clusters } from './clusters.ts'

/** Two nodes that have a session; `from` is before `to`, and counts the bytes unless only the other one answers. */
export interface Link {
  id: string
  from: string
  to: string
  path: RuledPath
  relay?: string
  rttMs?: number
  /** Of `from`; absent for who may not know. */
  bytesIn?: number
  bytesOut?: number
}

/** The pages of one list have the same answer. */
const KEPT_MS = 1_000

/** How nodes reach each other now, of the clusters that answer; those of earlier versions do not know the question. */
export class Links {
  readonly #clusters: Pick<Clusters, 'all'>
  readonly #clock: Pick<Clock, 'now'>
  #last: { at: number; rows: Promise<Link[]> } | undefined

  constructor(clusters: Pick<Clusters, 'all'>, clock: Pick<Clock, 'now'>) {
    this.#clusters = clusters
    this.#clock = clock
  }

  /** In the order of their ids. */
  list(): Promise<Link[]> {
    const at = this.#clock.now()
    if (this.#last === undefined || at - this.#last.at > KEPT_MS) this.#last = { at, rows: this.#ask() }
    return this.#last.rows
  }

  async #ask(): Promise<Link[]> {
    const lists = await Promise.all(
      Array.from(this.#clusters.all(), async ({ name, link }) => {
        const { links } = await link.request('links.list', {}).catch(() => ({ links: [] }))
        return links.filter(({ node }) => clusterOf(node) === name) // its own
      }),
    )
    return joined(lists.flat())
  }
}

/** What both ends say of a link is one row. */
export function joined(told: readonly LinkOfNode[], most = MOST_LINKS): Link[] {
  const links = new Map<string, Required<Pick<Link, 'bytesIn' | 'bytesOut'>> & Link>()
  for (const { node, peer, bytesIn, bytesOut, ...rest } of told) {
    if (node === peer) continue
    const isFirst = node < peer
    const [from, to] = isFirst ? [node, peer] : [peer, node]
    const id = `${from} ${to}`
    if (!isFirst && links.has(id)) continue
    const bytes = isFirst ? { bytesIn, bytesOut } : { bytesIn: bytesOut, bytesOut: bytesIn }
    links.set(id, { id, from, to, ...rest, ...bytes })
  }
  return busiest([...links.values()], most).sort((a, b) => (a.id < b.id ? -1 : 1))
}
