import { MeshError } from '../../core/errors.ts'
import { Slices } from '../../core/kit/slices.ts'
import type { Collection } from '../../core/kit/store.ts'
import type { ServiceId } from '../../core/model/ids.ts'
import type { AppSpec, ServiceSpec } from '../spec.ts'
import { difference, type ServiceChange } from './difference.ts'
import type { AppRecord } from './root-store.ts'
import { checkQuotas, unknownToThem } from './people/bounds.ts'
import { startCycles } from './start-cycles.ts'
import { applyChanges, changeStore, idOf, type Submission, type SubmitParts, type Submitted } from './submission.ts'
import { checkRequests } from './vip-requests.ts'

/** Services of a document that is applied in one transaction; it takes about 10 ms. */
export const AT_ONCE = 100

/** A document that was accepted and is being applied. */
interface Accepted {
  apps: Omit<AppSpec, 'services'>[]
  customer: string
  /** With `prune`: the services that the document names. */
  keeps?: string[]
  /** The apps are deleted. */
  isDeletion?: true
}

const ACCEPTED = 'accepted'

/**
 * Documents of thousands of services, and the end of such apps, applied as a whole or not at all, a slice in each turn of the event loop:
 *
 *     checked ─▶ kept on disk, slice by slice ─▶ accepted: one write ─▶ applied, slice by slice ─▶ done
 *                └ a root that ends here has nothing of it               └ one that ends here goes on at its next start
 *
 * One at a time; whatever else changes what is wanted waits for `idle`.
 */
export class LargeSubmissions {
  readonly #parts: SubmitParts
  readonly #kept: Collection<ServiceSpec>
  readonly #accepted: Collection<Accepted>
  #running: Promise<unknown> = Promise.resolve()
  #isClosed = false

  constructor(parts: SubmitParts) {
    this.#parts = parts
    this.#kept = parts.store.database.collection('large-document')
    this.#accepted = parts.store.database.collection('large-document-accepted')
  }

  static isLarge({ apps }: Pick<Submission, 'apps'>): boolean {
    return apps.reduce((sum, { services }) => sum + services.length, 0) > AT_ONCE
  }

  /** Resolves when no document is being applied. */
  async idle(): Promise<void> {
    await this.#running.catch(() => undefined)
  }

  /** @throws MeshError SLA_CONFLICT with all conflicts at once, DISK_FULL; then nothing has changed */
  apply(submission: Submission): Promise<Submitted> {
    return this.#afterOthers(() => this.#apply(submission))
  }

  /** The app and all its services are removed. Returns these. @throws MeshError DISK_FULL; then nothing has changed */
  remove({ app, namespace, description, customer }: AppRecord): Promise<ServiceId[]> {
    return this.#afterOthers(async () => {
      await this.#forget()
      const accepted: Accepted = { apps: [{ app, namespace, description }], customer, keeps: [], isDeletion: true }
      this.#accepted.put(ACCEPTED, accepted)
      return (await this.#applyKept(accepted)).map(idOf)
    })
  }

  /** What an earlier process had accepted. Returns what changed. */
  resume(): Promise<ServiceChange[]> {
    return this.#afterOthers(async () => {
      const accepted = this.#accepted.get(ACCEPTED)
      if (accepted !== undefined) return this.#applyKept(accepted)
      await this.#forget()
      return []
    })
  }

  /** What is under way ends after its slice; the next start goes on. */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.idle()
  }

  #afterOthers<T>(work: () => Promise<T>): Promise<T> {
    const running = this.idle().then(work)
    this.#running = running
    return running
  }

  async #apply({ apps, customer, prune, used = new Set(), told }: Submission): Promise<Submitted> {
    const { store, vips } = this.#parts
    const services = apps.flatMap((app) => app.services)
    const ids = services.map(({ id }) => id)
    const { requests, conflicts, warnings } = checkRequests(apps, vips, { freed: new Set(ids), used, told })
    conflicts.push(...startCycles(apps, { store, prune }), ...unknownToThem(apps, store))
    if (conflicts.length > 0) throw new MeshError('SLA_CONFLICT', { conflicts })
    const named = new Set(ids)
    const pruned = prune ? apps.flatMap((app) => store.servicesOf(app).filter(({ id }) => !named.has(id))) : []
    checkQuotas(
      new Map([
        ...services.map((spec): [ServiceId, ServiceSpec] => [spec.id, spec]),
        ...pruned.map(({ id }): [ServiceId, undefined] => [id, undefined]),
      ]),
      store,
    )
    await this.#forget()
    await this.#keep(services)
    const accepted: Accepted = {
      apps: apps.map(({ services: _services, ...app }) => app),
      customer,
      ...(prune ? { keeps: ids } : {}),
    }
    this.#accepted.put(ACCEPTED, accepted)
    const before = requests.map(({ index }) => vips.at(index)).flatMap((holder) => holder ?? [])
    const changes = await this.#applyKept(accepted)
    const moved = before.flatMap(({ service }) => (named.has(service) ? [] : [service]))
    return { changes, moved: [...new Set(moved)].filter((id) => store.services.get(id) !== undefined), warnings }
  }

  async #keep(services: readonly ServiceSpec[]): Promise<void> {
    const slices = new Slices()
    for (let start = 0; start < services.length; start += AT_ONCE) {
      this.#parts.store.database.transaction(() => {
        for (const [i, spec] of services.slice(start, start + AT_ONCE).entries()) this.#kept.put(keyOf(start + i), spec)
      })
      if (slices.isOver) await slices.next()
      if (this.#isClosed) throw new MeshError('NOT_RUNNING', { what: 'the root' })
    }
  }

  async #applyKept({ apps, customer, keeps, isDeletion }: Accepted): Promise<ServiceChange[]> {
    const { store } = this.#parts
    const all: ServiceChange[] = []
    const slices = new Slices()
    const keys = this.#kept.keys()
    store.database.transaction(() => {
      for (const { app, namespace, description } of isDeletion === true ? [] : apps)
        store.apps.put(`${app}.${namespace}`, { app, namespace, description, customer })
    })
    for (let start = 0; start < keys.length; start += AT_ONCE) {
      all.push(...this.#applySlice(keys.slice(start, start + AT_ONCE)))
      await slices.next()
      if (this.#isClosed) throw new MeshError('NOT_RUNNING', { what: 'the root' })
    }
    for (const ids of keeps === undefined ? [] : this.#notAmong(apps, new Set(keeps))) {
      const removed = ids.map((id): ServiceChange => ({ kind: 'removed', id }))
      changeStore(this.#parts, () => applyChanges(removed, { requests: [], services: [] }, this.#parts))
      all.push(...removed)
      await slices.next()
      if (this.#isClosed) throw new MeshError('NOT_RUNNING', { what: 'the root' })
    }
    store.database.transaction(() => {
      for (const { app, namespace } of isDeletion === true ? apps : []) store.apps.delete(`${app}.${namespace}`)
      this.#accepted.delete(ACCEPTED)
    })
    return all
  }

  /** One transaction: what is applied is no longer kept. */
  #applySlice(keys: readonly string[]): ServiceChange[] {
    const { store, vips } = this.#parts
    const specs = keys.flatMap((key) => this.#kept.get(key) ?? [])
    const existing = specs.flatMap(({ id }) => store.services.get(id) ?? [])
    const changes = difference(existing, specs, { prune: false })
    const app: AppSpec = { app: '', namespace: '', description: '', services: specs }
    const freed = new Set(changes.map(idOf))
    const { requests } = checkRequests([app], vips, { freed, used: new Set() })
    changeStore(this.#parts, () => {
      applyChanges(changes, { requests, services: specs.map(({ id }) => id) }, this.#parts)
      for (const key of keys) this.#kept.delete(key)
    })
    return changes
  }

  /** The services of these apps that the document does not name, in slices. */
  #notAmong(apps: Accepted['apps'], named: ReadonlySet<string>): string[][] {
    const others = apps
      .flatMap((app) => this.#parts.store.servicesOf(app).map(({ id }) => id))
      .filter((id) => !named.has(id))
    return Array.from({ length: Math.ceil(others.length / AT_ONCE) }, (_, i) =>
      others.slice(i * AT_ONCE, (i + 1) * AT_ONCE),
    )
  }

  /** Of a document that was never accepted. */
  async #forget(): Promise<void> {
    const slices = new Slices()
    const keys = this.#kept.keys()
    for (let start = 0; start < keys.length; start += AT_ONCE) {
      this.#parts.store.database.transaction(() => {
        for (const key of keys.slice(start, start + AT_ONCE)) this.#kept.delete(key)
      })
      if (slices.isOver) await slices.next()
    }
  }
}

/** In order, as text. */
function keyOf(place: number): string {
  return String(place).padStart(6, '0')
}
