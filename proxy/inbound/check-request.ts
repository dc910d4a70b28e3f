import { instanceId, interestOf, type InstanceId, type InterestKey, type NodeId } from '../../src/core/model/ids.ts'
import { mayCallFrom } from '../../src/core/model/instance.ts'
import { authorise } from '../decide/authorise.ts'
import type { Endpoint } from '../socket/dial.ts'
import type { InterestSource, TableView } from '../../src/core/table/view.ts'
import { portText, type Protocol } from '../flow/flow.ts'
import type { FlowRequest } from '../flow/request.ts'
import type { Refusal } from '../tunnel/contract.ts'
import { Counts } from '../../src/core/kit/counts.ts'

/** What becomes of a request. `unasked`: the cluster may know what this node does not; without its answer it is `otherwise`. */
export type Check = OwnInstances | { kind: 'unasked'; key: InterestKey; otherwise: Refused } | Refused

export interface OwnInstances {
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

/** Decides about one request from what this node knows now. Nothing in the request is believed. */
export function checkRequest(peer: NodeId, request: FlowRequest, parts: CheckParts): Check {
  const { table, endpointOf, isDraining, self } = parts
  const entry = table.entry(request.service)
  if (entry === undefined) return unasked(request.service, 'not-here', `${request.service} is not known here`)

  const { caller } = request
  if (caller.kind === 'instance') {
    const instance = table.instance(caller.id)
    if (instance === undefined) return unasked(caller.service, 'not-allowed', `the caller ${caller.id} is not known`)
    if (!mayCallFrom(instance, peer))
      return refused('not-allowed', `the caller ${caller.id} is on ${instance.node}, not on ${peer}`)
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

/** Questions to the cluster under way on behalf of peers. Larger: what peers name becomes more load for the cluster. */
const ASKING_LIMIT = 32
/** How long a name that the cluster did not know is not asked for again. Larger: a new caller waits longer. */
const UNKNOWN_MS = 2_000
/** Names kept as unknown. Once there are this many, nothing more is asked until the oldest expires. */
const UNKNOWN_LIMIT = 256
/** One peer may use at most this share of both. Larger: a flood of invented names leaves less to others. */
const SHARE = 0.75

export interface RequestCheckerParts extends CheckParts {
  readonly interests: InterestSource
}

/** Checks requests, and asks the cluster about services that this node does not know, within limits. */
export class RequestChecker {
  readonly #parts: RequestCheckerParts
  /** Until when a name is not asked for again, and who named it; in the order of time. */
  readonly #unknown = new Map<InterestKey, { until: number; peer: NodeId }>()
  readonly #unknownOf = new Counts<NodeId>()
  /** Questions under way: whoever names the same meanwhile waits for the same answer. */
  readonly #asking = new Map<InterestKey, Promise<boolean>>()
  readonly #askingFor = new Counts<NodeId>()

  constructor(parts: RequestCheckerParts) {
    this.#parts = parts
  }

  /** Asks at most once about each of service and caller; a promise only where something must be asked. */
  check(peer: NodeId, request: FlowRequest): OwnInstances | Refused | Promise<OwnInstances | Refused> {
    const check = checkRequest(peer, request, this.#parts)
    return check.kind === 'unasked' ? this.#askAndCheck(peer, request, check) : check
  }

  async #askAndCheck(peer: NodeId, request: FlowRequest, first: Check): Promise<OwnInstances | Refused> {
    let check = first
    for (let round = 0; round < 2 && check.kind === 'unasked'; round++) {
      if (!(await this.#ask(check.key, peer))) return check.otherwise
      check = checkRequest(peer, request, this.#parts)
    }
    return check.kind === 'unasked' ? check.otherwise : check
  }

  /** False when the cluster was not asked, or has not answered. */
  #ask(key: InterestKey, peer: NodeId): Promise<boolean> | boolean {
    const underWay = this.#asking.get(key)
    if (underWay !== undefined) return underWay
    this.#expire(performance.now())
    if (this.#unknown.has(key) || !this.#hasRoom(peer)) return false
    const asking = this.#askNow(key, peer).finally(() => this.#asking.delete(key))
    this.#asking.set(key, asking)
    return asking
  }

  async #askNow(key: InterestKey, peer: NodeId): Promise<boolean> {
    this.#askingFor.change(peer, 1)
    try {
      await this.#parts.interests.want(key)
      return true
    } catch {
      return false // the request is refused for want of an answer
    } finally {
      this.#askingFor.change(peer, -1)
      this.#forget(key)
      this.#unknown.set(key, { until: performance.now() + UNKNOWN_MS, peer })
      this.#unknownOf.change(peer, 1)
    }
  }

  #hasRoom(peer: NodeId): boolean {
    const isFree = (counts: Counts<NodeId>, limit: number) => counts.total < limit && counts.of(peer) < limit * SHARE
    return isFree(this.#askingFor, ASKING_LIMIT) && isFree(this.#unknownOf, UNKNOWN_LIMIT)
  }

  #expire(now: number): void {
    for (const [key, { until }] of this.#unknown) {
      if (until > now) return
      this.#forget(key)
    }
  }

  #forget(key: InterestKey): void {
    const known = this.#unknown.get(key)
    if (known === undefined) return
    this.#unknown.delete(key)
    this.#unknownOf.change(known.peer, -1)
  }
}
