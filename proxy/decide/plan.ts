import type { ErrorCode } from '../../src/core/errors.ts'
import type { NodeId, ServiceId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import { ANY_PATH, type PathRule } from '../../src/core/model/path-rule.ts'
import type { TableView, Target } from '../../src/core/table/view.ts'
import { type Caller, callerText, portText, type Protocol } from '../flow/flow.ts'
import type { FlowEnd } from '../flow/flow-line.ts'
import type { Memory } from '../flow/memory.ts'
import type { Balancer, Ordered } from '../policies/index.ts'
import type { Peers, Session } from '../tunnel/contract.ts'
import { authorise, type Verdict } from './authorise.ts'

/*
 * Everything that is decided about a flow before anything is opened. It is decided once, from what this node knows now:
 *
 *   port served? ─▶ caller allowed? ─▶ service known? ─▶ order to try ─▶ for each candidate: session, round trip, path
 *        └───────────────┴──────────────────┴─────────────────┴─▶ refused, with the reason
 *
 * TCP flows, UDP flows and `hedgerow trace` act on this one value, so `trace` cannot report what a flow would not do.
 * What the kernel carries by itself is decided in `standing.ts`, from the same permission and the same policies.
 */

/** What a caller wants, whichever way it came. */
export interface FlowIntent {
  readonly target: Target
  readonly port: number
  readonly protocol: Protocol
  readonly caller: Caller
}

export interface Plan {
  readonly intent: FlowIntent
  /** `clock.now()` when it was made. */
  readonly madeAt: number
  /** The caller as logs print it. */
  readonly caller: string
  /** Absent when the flow was refused before this question came up. */
  readonly permission: Verdict | undefined
  /** The paths that both this node and the service allow. */
  readonly rule: PathRule
  /** The policy's order and the reason for it; absent when the flow was refused before. */
  readonly order: Ordered | undefined
  /** In the order to try; empty when the flow is refused. */
  readonly candidates: readonly Candidate[]
  readonly refusal: FlowRefusal | undefined
}

/** Why a flow does not begin: how it ends in the ledger, what SOCKS and HTTP answer, and the reason for the log. */
export interface FlowRefusal {
  readonly end: FlowEnd
  readonly code: ErrorCode
  readonly reason: string
}

/** An instance to try, with everything about its node that was known when the plan was made. */
export interface Candidate {
  readonly instance: Instance
  readonly isHere: boolean
  /** The open session to its node with a carrier that the rule allows; `undefined`: one must be dialled first. */
  readonly session: Session | undefined
  /** Measured round trip to its node in ms; 0 on this node. */
  readonly rttMs: number | undefined
  /** Its node kept another flow waiting a moment ago: the next candidate is tried beside it at once. */
  readonly isOutlier: boolean
}

/** What a plan is made from. */
export interface PlanParts {
  readonly table: Pick<TableView, 'entry'>
  readonly peers: Pick<Peers, 'existing' | 'rttMs'>
  readonly self: NodeId
  readonly clock: { now(): number }
  readonly balancer: Balancer
  /** Which paths flows of a service may take (`flowRules`); any path without it. */
  readonly ruleOf?: (service: ServiceId) => PathRule
  /** Nodes that kept flows waiting; without it every node is waited for. */
  readonly outliers?: { has(node: NodeId, now: number): boolean }
  /** Instances whose UDP port was closed; without it none comes last. */
  readonly penalties?: { last(instances: readonly Instance[]): readonly Instance[] }
  readonly limits: { readonly candidates: number }
}

/** Decides about one flow; takes one turn of a round-robin choice. Opens nothing. */
export function plan(intent: FlowIntent, parts: PlanParts): Plan {
  const { target, port, protocol } = intent
  const { service } = target
  const caller = callerText(intent.caller, parts.self)
  const rule = parts.ruleOf?.(service.id) ?? ANY_PATH
  const madeAt = parts.clock.now()
  const draft: Plan = { ...NOTHING_DECIDED, intent, madeAt, caller, rule }

  if (!service.ports.some((served) => served.port === port && served.protocol === protocol)) {
    const reason = `${service.id} does not serve port ${portText(port, protocol)}`
    return { ...draft, refusal: { end: 'port-unknown', code: 'PORT_UNKNOWN', reason } }
  }
  const permission = authorise(intent.caller, service)
  if (!permission.allowed) {
    return { ...draft, permission, refusal: { end: 'not-allowed', code: 'NOT_ALLOWED', reason: permission.reason } }
  }
  const entry = parts.table.entry(service.id)
  if (entry === undefined) {
    const reason = `${service.id} is no longer known`
    return { ...draft, permission, refusal: { end: 'no-instance', code: 'SERVICE_UNKNOWN', reason } }
  }
  const order = parts.balancer.order(target, entry, caller, parts.limits.candidates)
  if (order.instances.length === 0) {
    const { reason } = order
    return { ...draft, permission, order, refusal: { end: 'no-instance', code: 'NO_INSTANCE', reason } }
  }
  return { ...draft, permission, order, candidates: candidatesFor(order.instances, draft, parts) }
}

const NOTHING_DECIDED = { permission: undefined, order: undefined, candidates: [], refusal: undefined } as const

function candidatesFor(order: readonly Instance[], { intent, rule, madeAt }: Plan, parts: PlanParts): Candidate[] {
  const { peers, self, outliers, penalties } = parts
  const instances = intent.protocol === 'udp' && penalties !== undefined ? penalties.last(order) : order
  return instances.map((instance) => {
    const { node } = instance
    if (node === self) return { instance, isHere: true, session: undefined, rttMs: 0, isOutlier: false }
    const isOutlier = outliers?.has(node, madeAt) === true
    return { instance, isHere: false, session: peers.existing(node, rule), rttMs: peers.rttMs(node), isOutlier }
  })
}

/** What bounds the flows of this agent, whatever they are for. */
export interface LoadParts {
  readonly ledger: { readonly size: number; readonly isDraining: boolean }
  readonly limits: { readonly maxFlows: number }
  readonly descriptors: { reserve(count: number): boolean }
  /** Absent: never scarce. */
  readonly memory?: Pick<Memory, 'shortage'>
}

/**
 * Why this agent takes no more flows now. Asked once for each flow when it comes in, before it waits for its turn; the
 * flow is in the ledger already.
 */
export function refusalForLoad({ ledger, limits, descriptors, memory }: LoadParts): FlowRefusal | undefined {
  if (ledger.isDraining) return tooMany('this agent is closing')
  if (ledger.size > limits.maxFlows) return tooMany(`${limits.maxFlows} flows are open`)
  if (memory?.shortage !== undefined) return tooMany(memory.shortage)
  return descriptors.reserve(1) ? undefined : tooMany('no descriptors are left')
}

function tooMany(reason: string): FlowRefusal {
  return { end: 'too-many', code: 'TOO_MANY_FLOWS', reason }
}

/**
 * What a choice means right now: every instance that the next flow could be given, in the order in which it would try
 * them. Takes no turn. For DNS TXT and `hedgerow resolve`.
 */
export function previewChoice(target: Target, caller: Caller, parts: PlanParts): Ordered {
  const entry = parts.table.entry(target.service.id)
  if (entry === undefined) return { instances: [], reason: `${target.service.id} is not known` }
  return parts.balancer.preview(target, entry, callerText(caller, parts.self))
}
