import { LISTS, type ListKind, type Mesh, NOTHING_YET, withEvents } from './mesh.ts'
import type { ClusterRow, EventRow, InstanceRow, LinkRow, NodeRow, ServiceRow, Usage } from './rows.ts'

/** A message of `GET /v1/watch`. */
export interface Message {
  event: string
  id?: string
  data: string
}

interface RowMessage {
  id: string
  /** Null: it is gone. */
  row: unknown
}

/**
 * What was watched, put together:
 *
 *     reset   ─▶ rows of these kinds are gathered beside those that are known
 *     KIND    ─▶ a row is as it says
 *     synced  ─▶ what was gathered takes the place of what was known
 *
 * So a stream that begins anew never shows half a mesh.
 */
export class Watched {
  #known = new Map<ListKind, Map<string, unknown>>(LISTS.map((kind) => [kind, new Map()]))
  #gathered = new Map<ListKind, Map<string, unknown>>()
  #usage: ReadonlyMap<string, Usage> = new Map()
  #links: readonly LinkRow[] = []
  #mesh: Mesh = NOTHING_YET
  readonly #changed = new Set<ListKind>()
  #events: EventRow[] = []
  #lastId: string | undefined
  #isSynced = false

  /** Where the stream goes on after a break. */
  get lastId(): string | undefined {
    return this.#lastId
  }

  /** All lists were there once. */
  get isSynced(): boolean {
    return this.#isSynced
  }

  take({ event, id, data }: Message): void {
    this.#lastId = id ?? this.#lastId
    if (event === 'reset') {
      const { kinds } = JSON.parse(data) as { kinds: string[] }
      for (const kind of kinds) if (isList(kind)) this.#gathered.set(kind, new Map())
    } else if (event === 'synced') {
      for (const [kind, rows] of this.#gathered) {
        this.#known.set(kind, rows)
        this.#changed.add(kind)
      }
      this.#gathered.clear()
      this.#isSynced = true
    } else if (event === 'events') this.#events.push((JSON.parse(data) as { row: EventRow }).row)
    else if (isList(event)) this.#put(event, JSON.parse(data) as RowMessage)
  }

  /** Events from before the watch began. */
  takeEvents(events: readonly EventRow[]): void {
    this.#events.push(...events)
  }

  /** What instances use, which is measured when somebody asks. */
  takeUsage(rows: readonly InstanceRow[]): void {
    this.#usage = new Map(rows.flatMap(({ id, usage }) => (usage === undefined ? [] : [[id, usage] as const])))
    this.#changed.add('instances')
  }

  /** How nodes reach each other, which nodes tell when somebody asks. */
  takeLinks(links: readonly LinkRow[]): void {
    this.#links = links
  }

  /** Lists that have not changed stay the same objects. */
  mesh(): Mesh {
    const { clusters, nodes, services, instances, events } = this.#mesh
    this.#mesh = {
      clusters: (this.#listOf('clusters') as ClusterRow[] | undefined) ?? clusters,
      nodes: (this.#listOf('nodes') as NodeRow[] | undefined) ?? nodes,
      services: (this.#listOf('services') as ServiceRow[] | undefined) ?? services,
      instances:
        (this.#listOf('instances') as InstanceRow[] | undefined)?.map((row) => this.#withUsage(row)) ?? instances,
      links: this.#links,
      events: this.#events.length === 0 ? events : withEvents(events, this.#events),
    }
    this.#changed.clear()
    this.#events = []
    return this.#mesh
  }

  #put(kind: ListKind, { id, row }: RowMessage): void {
    const gathered = this.#gathered.get(kind)
    const rows = gathered ?? this.#known.get(kind)
    if (row === null) rows?.delete(id)
    else rows?.set(id, row)
    if (gathered === undefined) this.#changed.add(kind)
  }

  #listOf(kind: ListKind): unknown[] | undefined {
    return this.#changed.has(kind) ? [...(this.#known.get(kind)?.values() ?? [])] : undefined
  }

  #withUsage(row: InstanceRow): InstanceRow {
    const usage = this.#usage.get(row.id)
    return usage === undefined ? row : { ...row, usage }
  }
}

function isList(kind: string): kind is ListKind {
  return (LISTS as readonly string[]).includes(kind)
}
