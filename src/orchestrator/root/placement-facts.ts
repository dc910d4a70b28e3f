import { interestOf, type InstanceId } from '../../core/model/ids.ts'
import type { Anchor } from '../scheduling/distance.ts'
import { withAsked } from '../scheduling/asked-by-others.ts'
import type { Placed, PlacementRequest } from '../scheduling/placement-request.ts'
import type { Constraint, ServiceSpec } from '../spec.ts'
import { admission, mayKnow } from './people/admission.ts'
import type { InstanceRecord, RootStore } from './root-store.ts'

/** More instances of one service are not measured to. Larger makes decisions slower. */
const MOST_ANCHORS = 256

/** What the root's decision about an instance depends on beside the clusters: where the instances of services are. */
export function requestFor(
  spec: ServiceSpec,
  { store, except }: { store: RootStore; except?: InstanceId },
): PlacementRequest {
  const others = (service: string) => placedRecords(service, spec, store).filter(({ id }) => id !== except)
  const admitted = admission(spec, store)
  return {
    spec: withAsked(spec, store.asking.askedOf(spec)),
    ...(admitted === undefined ? {} : { admitted }),
    near: ({ service }: Constraint) =>
      service === undefined ? [] : others(service).slice(0, MOST_ANCHORS).flatMap(anchorAt),
    placed: (service) => others(service).flatMap(placedAt),
  }
}

/** Instances that have a cluster, of a service id or of all services under an interest key, that the service may know of. */
function placedRecords(service: string, from: ServiceSpec, store: RootStore): InstanceRecord[] {
  const services = store.services.list(service).filter(({ id }) => id === service || interestOf(id) === service)
  return services
    .filter(({ spec }) => mayKnow(from, spec, store))
    .flatMap(({ id }) => store.instancesOf(id))
    .filter(({ cluster, wanted }) => wanted && cluster !== undefined)
}

function anchorAt({ node }: InstanceRecord): Anchor[] {
  if (node === undefined) return []
  const { id, coordinate } = node
  return [{ node: id, beyondMs: 0, ...(coordinate === undefined ? {} : { coordinate }) }]
}

function placedAt({ cluster, node }: InstanceRecord): Placed[] {
  if (cluster === undefined) return []
  const { id, area } = node ?? {}
  return [{ cluster, ...(id === undefined ? {} : { node: id }), ...(area === undefined ? {} : { area }) }]
}
