import { instanceId, interestOf, type InstanceId, type InterestKey, type NodeId } from '../../src/core/model/ids.ts'
import { authorise } from '../decide/authorise.ts'
import type { Endpoint } from '../socket/dial.ts'
import type { TableView } from '../../src/core/table/view.ts'
import { portText } from '../flow/flow.ts'
import type { FlowRequest, Protocol } from '../flow/request.ts'
import type { Refusal } from '../tunnel/contract.ts'

/** What becomes of a request; `unasked`: the cluster may know what this node does not. */
export type Check = Here | { kind: 'unasked'; key: InterestKey; otherwise: Refused } | Refused

export interface Here {
  kind: 'here'
  instance: InstanceId
  endpoint: Endpoint
}

export type Refused = { kind: 'refused'; refusal: Refusal; reason: string }

/** What this node knows, as far as a request is checked against it. */
export interface CheckParts {
  readonly table: TableView
  readonly self: NodeId
  /** Where an instance of this node listens; `undefined` when it is not here or has no such port. */
  readonly endpointOf: (instance: InstanceId, port: number, protocol: Protocol) => Endpoint | undefined
  /** A stopping instance takes no new flows. */
  readonly isDraining: (instance: InstanceId) => boolean
}

/** The decision about one request, from what this node knows now. */
export function checkRequest(peer: NodeId, request: FlowRequest, parts: CheckParts): Check {
  const { table, endpointOf, isDraining, self } = parts
  const entry = table.entry(request.service)
  if (entry === undefined) return unasked(request.service, 'not-here', `${request.service} is not known here`)

  const { caller } = request
  if (caller.kind === 'instance') {
    const known = table.instance(caller.id)
    if (known === undefined) return unasked(caller.service, 'not-allowed', `the caller ${caller.id} is not known`)
    if (known.node !== peer)
      return refused('not-allowed', `the caller ${caller.id} is on ${known.node}, not on ${peer}`)
  }
  const verdict = authorise(caller, entry.service)
  if (!verdict.allowed) return refused('not-allowed', verdict.reason)

  if (!entry.service.ports.some(({ port, protocol }) => port === request.port && protocol === request.protocol)) {
    return refused('bad-request', `${request.service} does not serve port ${portText(request.port, request.protocol)}`)
  }
  const instance = instanceId(request.service, request.ordinal)
  const endpoint = endpointOf(instance, request.port, request.protocol)
  if (endpoint === undefined) return refused('not-here', `${instance} does not run on ${self}`)
  if (isDraining(instance)) return refused('draining', `${instance} is stopping`)
  return { kind: 'here', instance, endpoint }
}

export function refused(refusal: Refusal, reason: string): Refused {
  return { kind: 'refused', refusal, reason }
}

function unasked(service: string, refusal: Refusal, reason: string): Check {
  return { kind: 'unasked', key: interestOf(service), otherwise: refused(refusal, reason) }
}
