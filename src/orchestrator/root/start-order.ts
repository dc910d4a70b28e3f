import { interestOf, type ServiceId } from '../../core/model/ids.ts'
import { startsAfter } from '../sla/start-order.ts'
import { servingOf } from './former-place.ts'
import { mayKnow } from './people/admission.ts'
import type { InstanceRecord, RootStore, ServiceRecord } from './root-store.ts'

/** More are counted. */
const MOST_NAMED = 3

/**
 * Why the first instances of a service do not start yet: `waits for shop.acme.db.prod, which is starting: exited with code 1`.
 * `undefined` once one has been placed: what is updated, healed or scaled does not wait.
 */
export function whyWaiting(
  { spec }: ServiceRecord,
  instances: readonly InstanceRecord[],
  store: Pick<RootStore, 'services' | 'instancesOf' | 'organisations'>,
): string | undefined {
  if (spec.startsAfterConnectivity !== true || instances.some(({ generation }) => generation > 0)) return undefined
  const reasons = startsAfter(spec).flatMap((key) => {
    const meant = servicesOf(key, store).filter((other) => mayKnow(spec, other.spec, store))
    if (meant.length === 0) return [`${key}, which does not exist`]
    return meant.flatMap((each) => {
      const why = whyNotReady(each, store.instancesOf(each.id))
      return why === undefined ? [] : [`${each.id}, ${why}`]
    })
  })
  if (reasons.length === 0) return undefined
  const more = reasons.length > MOST_NAMED ? `; and for ${reasons.length - MOST_NAMED} more` : ''
  return `waits for ${reasons.slice(0, MOST_NAMED).join('; for ')}${more}`
}

/** A service is ready when one instance answers; a job when all have succeeded. */
function whyNotReady({ spec }: ServiceRecord, instances: readonly InstanceRecord[]): string | undefined {
  const wanted = instances.filter((record) => record.wanted)
  if (spec.schedule !== undefined) return undefined // it runs again and again
  if (spec.replicas === 0) return 'which has no replicas'
  const isReady = (record: InstanceRecord) => servingOf(record).state === (spec.oneShot ? 'stopped' : 'running')
  const ill = wanted.filter((record) => !isReady(record))
  const isEnough = spec.oneShot ? wanted.length === spec.replicas && ill.length === 0 : wanted.length > ill.length
  if (isEnough) return undefined
  const [first] = ill.toSorted((a, b) => Number(b.detail !== undefined) - Number(a.detail !== undefined))
  if (first === undefined) return 'which is requested'
  const detail = first.detail === undefined ? '' : `: ${first.detail}`
  return `which ${spec.oneShot && first.state === 'running' ? 'has not ended' : `is ${first.state}`}${detail}`.slice(
    0,
    500,
  )
}

function servicesOf(key: string, { services }: Pick<RootStore, 'services'>): ServiceRecord[] {
  const one = services.get(key)
  return one === undefined ? services.list(`${key}.`) : [one]
}

/** Which services wait for which. */
export class Waiting {
  readonly #keys = new Map<ServiceId, readonly string[]>()
  readonly #waiting = new Map<string, Set<ServiceId>>()

  add({ id, spec }: ServiceRecord): void {
    if (this.#keys.has(id)) return
    const keys = startsAfter(spec)
    this.#keys.set(id, keys)
    for (const key of keys) {
      const waiting = this.#waiting.get(key) ?? new Set()
      this.#waiting.set(key, waiting.add(id))
    }
  }

  delete(id: ServiceId): void {
    for (const key of this.#keys.get(id) ?? []) {
      const waiting = this.#waiting.get(key)
      waiting?.delete(id)
      if (waiting?.size === 0) this.#waiting.delete(key)
    }
    this.#keys.delete(id)
  }

  /** Those that wait for this one. */
  *for(id: ServiceId): Iterable<ServiceId> {
    for (const key of [id, interestOf(id)]) yield* this.#waiting.get(key) ?? []
  }
}
