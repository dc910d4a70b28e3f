import type { Collection } from '../../../core/kit/collection.ts'
import { clusterOf } from '../../../core/model/ids.ts'
import type { ApiContext } from '../api-context.ts'
import type { Event } from '../events/event.ts'
import type { EventQuery, PageQuery } from '../events/events.ts'
import type { KnownNodes, RootStore } from '../root-store.ts'
import type { Link } from '../links.ts'
import type { View } from './view.ts'

/**
 * What a call works with: for whoever sees everything the context itself, for others one in which nothing else than what they see can
 * be found. So a list is filtered, and a name that is not theirs is unknown, also in calls that never heard of organisations.
 */
export function scopedContext(context: ApiContext, view: View): ApiContext {
  if (view.isWhole) return { ...context, view }
  const { clusters, nodes, links, secrets, events } = context
  return {
    ...context,
    view,
    store: scopedStore(context.store, view),
    clusters: overlaid(clusters, {
      all: () => Array.from(clusters.all()).filter(({ name }) => view.seesCluster(name)),
    }),
    nodes: overlaid(nodes, {
      list: async (maxAgeMs?: number) => nodesSeen(await nodes.list(maxAgeMs), view),
      listKnown: () => nodesSeen(nodes.listKnown(), view),
      lastKnown: (cluster: string) =>
        view.seesCluster(cluster) ? knownSeen(nodes.lastKnown(cluster), view) : undefined,
    }),
    links: { list: async () => (await links.list()).flatMap((link) => linkSeen(link, view)) },
    secrets: overlaid(secrets, {
      list: () => secrets.list().filter(({ name }) => view.mayWith('secrets', name)),
    }),
    events: overlaid(events, {
      list: (query: EventQuery, most: number) => events.list(seen(query, view), most),
      newest: (query: PageQuery, most: number) => events.newest(seen(query, view), most),
      follow: (query: EventQuery, signal: AbortSignal) => events.follow(seen(query, view), signal),
    }),
  }
}

function seen<Q extends EventQuery>(query: Q, view: View): Q {
  return { ...query, sees: (event: Event) => view.seesEvent(event) }
}

/** The object with other methods in place of some of its own, which are called on it as before. */
function overlaid<T extends object>(target: T, others: Partial<T>): T {
  return new Proxy(target, {
    get(_target, key) {
      if (Object.hasOwn(others, key)) return others[key as keyof T]
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/** Reads find only what the view has; writes are as they are, since what is written was found. */
function scopedStore(store: RootStore, view: View): RootStore {
  const named = (key: string) => view.sees(key)
  const cluster = (key: string) => view.seesCluster(key)
  const scoped: Partial<RootStore> = {
    apps: only(store.apps, named),
    services: only(store.services, named),
    instances: only(store.instances, named),
    revisions: only(store.revisions, named),
    runs: only(store.runs, named),
    decisions: only(store.decisions, named),
    secrets: only(store.secrets, named),
    clusters: only(store.clusters, cluster),
    nodes: only(store.nodes, cluster),
    // `node edge/n1`
    enrolments: only(store.enrolments, (key) => view.seesNode(key.slice(key.indexOf(' ') + 1))),
  }
  return Object.create(
    store,
    Object.fromEntries(Object.entries(scoped).map(([key, value]) => [key, { value, enumerable: true }])),
  ) as RootStore
}

function only<T>(all: Collection<T>, sees: (key: string) => boolean): Collection<T> {
  const keys = (prefix?: string) => all.keys(prefix).filter(sees)
  return {
    get: (key) => (sees(key) ? all.get(key) : undefined),
    revision: (key) => (sees(key) ? all.revision(key) : undefined),
    put: (key, value) => all.put(key, value),
    create: (key, value) => all.create(key, value),
    delete: (key) => all.delete(key),
    list: (prefix) => keys(prefix).flatMap((key) => all.get(key) ?? []),
    keys,
  }
}

type Row = KnownNodes['rows'][number]

function nodesSeen<R extends Pick<Row, 'id' | 'mayStillRun'>>(rows: readonly R[], view: View): R[] {
  return rows.filter(({ id }) => view.seesCluster(clusterOf(id))).map((row) => nodeSeen(row, view))
}

function knownSeen(known: KnownNodes | undefined, view: View): KnownNodes | undefined {
  return known && { ...known, rows: known.rows.map((row) => nodeSeen(row, view)) }
}

/** Between nodes that the caller sees. What they carried is everybody’s: only who operates both ends is told how much. */
function linkSeen(link: Link, view: View): Link[] {
  const { bytesIn: _in, bytesOut: _out, ...rest } = link
  const ends = [link.from, link.to]
  if (!ends.every((id) => view.seesNode(id))) return []
  const isTold = ends.every((id) => view.mayOperate(clusterOf(id)))
  return [isTold ? link : rest]
}

/** Without instances of others. */
export function nodeSeen<R extends Pick<Row, 'mayStillRun'>>(row: R, view: View): R {
  const { mayStillRun, ...rest } = row
  const shown = mayStillRun?.filter((id) => view.sees(id)) ?? []
  return (shown.length === 0 ? rest : { ...rest, mayStillRun: shown }) as R
}
