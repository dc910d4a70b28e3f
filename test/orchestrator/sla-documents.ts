import type { MeshError } from '../../src/core/errors.ts'
import type { Fault } from '../../src/orchestrator/sla/findings.ts'
import { parseSla, readSlaText } from '../../src/orchestrator/sla/parse.ts'

/** A document with these services, in an app of its own. */
export function documentWith(...services: Record<string, unknown>[]): Record<string, unknown> {
  const microservices = services.map((service) => ({
    microservice_name: 'cart',
    microservice_namespace: 'prod',
    cmd: ['run'],
    ...service,
  }))
  return { applications: [{ application_name: 'shop', application_namespace: 'acme', microservices }] }
}

/** What is wrong with a document; nothing when it is accepted. */
export function faultsOf(document: unknown): Fault[] {
  const parsed = parseSla(document)
  return parsed.kind === 'refused' ? parsed.faults : []
}

/** What is wrong with a text before it is a document; nothing when it can be read. */
export function faultsOfText(text: string, name: string): Fault[] {
  try {
    readSlaText(text, name)
    return []
  } catch (error) {
    return (error as MeshError).details['faults'] as Fault[]
  }
}
