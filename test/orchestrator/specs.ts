import type { Service } from '../../src/core/model/service.ts'
import type { Assignment, NodeFacts, ServiceSpec } from '../../src/orchestrator/spec.ts'
import { parseSla } from '../../src/orchestrator/sla/parse.ts'

/** A service as it comes out of a document: only what matters to a test is said. */
export function specOf(service: Record<string, unknown> = {}): ServiceSpec {
  const parsed = parseSla({
    applications: [
      {
        application_name: 'shop',
        application_namespace: 'acme',
        microservices: [{ microservice_name: 'cart', microservice_namespace: 'prod', cmd: ['true'], ...service }],
      },
    ],
  })
  if (parsed.kind === 'refused') throw new Error(JSON.stringify(parsed.faults))
  return parsed.apps[0]?.services[0] as ServiceSpec
}

export function assignmentOf(service: Record<string, unknown> = {}, ordinal = 0, generation = 1): Assignment {
  const spec = specOf(service)
  return { instance: `${spec.id}.${ordinal}`, ordinal, spec, generation }
}

export function factsOf(facts: Partial<NodeFacts> = {}): NodeFacts {
  return {
    id: 'edge/n1',
    capacity: { memoryMb: 1024, vcpus: 4, vgpus: 0, vtpus: 0, storageMb: 10_000 },
    runtimes: ['process', 'external'],
    arch: 'amd64',
    addresses: [],
    labels: {},
    version: '0.1.0',
    ...facts,
  }
}

/** A service as tables have it, by its id. */
export function serviceOf(id: string): Service {
  const [app = '', appNamespace = '', name = '', namespace = ''] = id.split('.')
  return { id, app, appNamespace, name, namespace, ports: [], allow: [], vips: {} }
}
