import { isAllocatable, parseIPv4, VIP_COUNT } from '../../core/model/address.ts'
import { POLICIES, type ChoiceKey } from '../../core/model/choice.ts'
import { interestOf, type InterestKey, type ServiceId } from '../../core/model/ids.ts'
import type { VipIndex } from '../../core/model/service.ts'
import type { Fault } from '../sla/findings.ts'
import type { AppSpec, ServiceSpec } from '../spec.ts'
import type { RootStore, VipRecord } from './root-store.ts'
import type { Vips } from './vips.ts'

/** 10.16.0.0/12: the range of `addresses` in a document, whatever interception mode a node uses. */
const HOST_PREFIX = 0x0a100000

/** An address that a document requests. */
export interface VipRequest {
  service: ServiceId
  choice: ChoiceKey
  index: VipIndex
  address: string
  /** The place in the document. */
  path: string
}

/** What requests of a document meet: those of others that stand against them, and what may surprise a caller. */
export interface RequestCheck {
  requests: VipRequest[]
  conflicts: Fault[]
  warnings: Fault[]
}

export function addressToIndex(text: string): VipIndex | undefined {
  const address = parseIPv4(text)
  const index = address === undefined ? -1 : address - HOST_PREFIX
  return index >= 0 && index < VIP_COUNT && isAllocatable(index) ? index : undefined
}

/**
 * The interest keys of other services that would have to give up an automatic address for this document. Whether any node uses
 * them is not known here.
 */
export function keysInTheWay(apps: readonly AppSpec[], vips: Vips): InterestKey[] {
  const own = new Set(apps.flatMap(({ services }) => services.map(({ id }) => id)))
  const holders = apps.flatMap((app, a) => requestsOf(app, a).requests.flatMap(({ index }) => vips.at(index) ?? []))
  const others = holders.filter(({ service, requested }) => requested !== true && !own.has(service))
  return [...new Set(others.map(({ service }) => interestOf(service)))]
}

export interface RequestContext {
  freed: ReadonlySet<ServiceId>
  used: ReadonlySet<InterestKey>
  /** What a service is called in what is told; its name when absent. */
  told?: ((service: ServiceId) => string) | undefined
}

/**
 * Checks all requests of a document against what is assigned. Services that the document itself changes or removes (`freed`) make
 * room, whatever their order; automatic addresses of other services do unless a node uses them (`used`).
 */
export function checkRequests(
  apps: readonly AppSpec[],
  vips: Vips,
  { freed, used, told = (service) => service }: RequestContext,
): RequestCheck {
  const found = apps.map(requestsOf)
  const requests = found.flatMap(({ requests }) => requests)
  const conflicts = found.flatMap(({ conflicts }) => conflicts)
  const warnings: Fault[] = []
  const taken = new Map<VipIndex, VipRequest>()
  for (const request of requests) {
    const { index, service, choice } = request
    const twin = taken.get(index)
    taken.set(index, request)
    const holder = vips.at(index)
    if (twin !== undefined)
      conflicts.push(conflict(request, `${twin.choice} of ${twin.service} in this document requests it too`))
    else if (holder !== undefined && holder.service !== service && !freed.has(holder.service)) {
      const reason = whyHeld(holder, used, told)
      if (reason !== undefined) conflicts.push(conflict(request, reason))
    }
    const former = vips.restingAt(index)?.record ?? (holder?.requested === true ? holder : undefined)
    if (former !== undefined && (former.service !== service || former.choice !== choice))
      warnings.push(rememberedElsewhere(request, { ...former, service: told(former.service) }))
  }
  return { requests, conflicts, warnings }
}

interface VipParts {
  store: RootStore
  vips: Vips
}

/**
 * Assigns all requests of these services first; automatic addresses in their way step aside and are assigned anew. Returns the
 * services whose automatic addresses changed.
 */
export function assignVips(
  requests: readonly VipRequest[],
  services: readonly ServiceId[],
  { store, vips }: VipParts,
): ServiceId[] {
  dropOldRequests(requests, services, vips)
  const evicted: VipRecord[] = []
  for (const { index, service, choice } of requests) {
    const holder = vips.at(index)
    if (holder !== undefined && (holder.service !== service || holder.choice !== choice)) {
      vips.evict(index)
      evicted.push(holder)
    }
  }
  for (const { index, service, choice } of requests) vips.claim(index, service, choice)
  for (const { service, choice } of evicted) vips.ensure(service, choice)
  for (const id of services) {
    for (const policy of POLICIES) vips.ensure(id, `any.${policy}`)
    for (const { ordinal, wanted } of store.instancesOf(id)) if (wanted) ensureInstanceVips(id, ordinal, vips)
  }
  return [...new Set(evicted.map(({ service }) => service))]
}

/** What was requested before and no longer is becomes automatic; the address of an instance that does not exist is freed. */
function dropOldRequests(requests: readonly VipRequest[], services: readonly ServiceId[], vips: Vips): void {
  const requested = new Set(requests.map(({ service, choice, index }) => `${service} ${choice} ${index}`))
  for (const id of services) {
    for (const [choice, index] of vips.of(id)) {
      if (vips.at(index)?.requested !== true || requested.has(`${id} ${choice} ${index}`)) continue
      vips.unrequest(id, choice)
      if (!choice.startsWith('any.')) vips.freeAutomatic(id, choice) // an instance that exists gets it back
    }
  }
}

/** One address for each policy, besides those of the service. */

export function ensureInstanceVips(id: ServiceId, ordinal: number, vips: Vips): void {
  for (const policy of POLICIES) vips.ensure(id, `${ordinal}.${policy}`)
}

/**
 * Gives every service and instance the addresses it must have, when the root starts: an earlier version could assign one index
 * twice, and lost one of the owners in a restart. Returns the services whose addresses changed.
 */
export function mendVips({ store, vips }: VipParts): ServiceId[] {
  const services = store.services.list()
  const ids = services.map(({ id }) => id)
  const shown = () =>
    new Map(ids.map((id) => [id, JSON.stringify([...vips.of(id)].toSorted(([a], [b]) => (a < b ? -1 : 1)))]))
  const before = shown()
  const known = new Set(ids)
  for (const id of vips.services()) if (!known.has(id)) vips.free(id)
  for (const id of ids) freeAbsentInstances(id, { store, vips })
  const requests = services.flatMap(({ spec }) => requestsOfService(spec, '').requests)
  const unique = new Map(requests.toReversed().map((request) => [request.index, request])) // the first of two
  assignVips([...unique.values()], ids, { store, vips })
  const after = shown()
  return ids.filter((id) => before.get(id) !== after.get(id))
}

function freeAbsentInstances(id: ServiceId, { store, vips }: VipParts): void {
  const ordinals = new Set(store.instancesOf(id).flatMap(({ ordinal, wanted }) => (wanted ? [String(ordinal)] : [])))
  for (const choice of vips.of(id).keys()) {
    const [instance = ''] = choice.split('.')
    if (instance !== 'any' && !ordinals.has(instance)) vips.freeAutomatic(id, choice)
  }
}

function requestsOf(app: AppSpec, a: number) {
  const found = app.services.map((spec, s) =>
    requestsOfService(spec, `applications[${a}].microservices[${s}].addresses`),
  )
  return { requests: found.flatMap(({ requests }) => requests), conflicts: found.flatMap(({ conflicts }) => conflicts) }
}

function requestsOfService(
  { id, addresses }: ServiceSpec,
  path: string,
): { requests: VipRequest[]; conflicts: Fault[] } {
  const requests: VipRequest[] = []
  const conflicts: Fault[] = []
  for (const [choice, address] of Object.entries(addresses) as [ChoiceKey, string][]) {
    const index = addressToIndex(address)
    if (index !== undefined) requests.push({ service: id, choice, index, address, path })
    else
      conflicts.push({
        path,
        problem: `${address} for ${choice}: the mesh does not assign this address`,
        remedy: 'choose one in 10.16.0.0/12',
      })
  }
  return { requests, conflicts }
}

function whyHeld(
  { service, choice, requested }: VipRecord,
  used: ReadonlySet<InterestKey>,
  told: (service: ServiceId) => string,
): string | undefined {
  const name = told(service)
  if (requested === true) return `it belongs to ${choice} of ${name}, which requests it`
  return used.has(interestOf(service)) ? `it was assigned to ${choice} of ${name}, which nodes are using` : undefined
}

function rememberedElsewhere({ path, address }: VipRequest, { service, choice }: VipRecord): Fault {
  return {
    path,
    problem: `${address} was ${choice} of ${service} until recently; a caller that remembers it reaches this service instead`,
    remedy: 'if that matters, choose another address, or apply this an hour after it was freed',
  }
}

function conflict({ address, choice, path }: VipRequest, reason: string): Fault {
  return { path, problem: `${address} for ${choice}: ${reason}`, remedy: 'choose another address' }
}
