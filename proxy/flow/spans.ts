import { createHash } from 'node:crypto'
import type { Clock } from '../../src/core/kit/clock.ts'
import type { Attributes, Span } from '../../src/core/kit/otlp-signals.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'
import type { EndedFlow, FlowEnd } from './flow-line.ts'
import type { FlowRequest } from './request.ts'
import type { Try } from './tries.ts'

/*
 * Flows as traces of OpenTelemetry: a span of the caller's node with what was decided as its events, and below it the span of the
 * instance's node.
 *
 *     edge/n1   client  shop.acme.cart.prod.any.rr.local:8080  ├─ planned ─ tried ─ tried ───────────── bytes ──────────────┤
 *     edge/n2   server  shop.acme.cart.prod.0:8080               ├───────────────────── bytes ───────────────────────┤
 *
 * Both ends know the flow's id, so they agree on the ids of the spans, and on which flows are sampled, without a byte more on the wire.
 */

/** What was decided about a flow, as far as it came. */
export interface FlowDecisions {
  /** `clock.now()` when the plan was made; absent: the flow was refused before, as one too many. */
  readonly plannedAt?: number
  /** Why it may, or may not. */
  readonly permission?: string | undefined
  /** Which paths it may take. */
  readonly paths?: string
  /** Why the instances were tried in this order. */
  readonly order?: string | undefined
  readonly candidates?: number
  readonly tries: readonly Try[]
}

/** A flow that this node took from another one. */
export interface TakenFlow {
  readonly request: FlowRequest
  readonly instance: InstanceId
  readonly peer: NodeId
  readonly path: PathKind | undefined
  readonly ageMs: number
  readonly end: string
  /** Bytes from the caller, and back. */
  readonly received: number
  readonly sent: number
  /** Why it was refused. */
  readonly error?: string
}

export interface FlowSpansOptions {
  /** The share of flows that are traced, 0 to 1. */
  readonly ratio: number
  readonly clock: Pick<Clock, 'wall'>
  readonly emit: (span: Span) => void
}

/** How flows end that nobody has to look into. */
const WELL: ReadonlySet<FlowEnd> = new Set<FlowEnd>(['closed', 'caller-reset', 'caller-gone', 'cut'])

export class FlowSpans {
  readonly #options: FlowSpansOptions
  readonly #below: number

  constructor(options: FlowSpansOptions) {
    this.#options = options
    this.#below = options.ratio * 2 ** 32
  }

  /** The same for both ends of a flow. Its last digits count: the multiplication spreads them evenly (Knuth, TAOCP 3, 6.4). */
  isSampled(flow: string): boolean {
    return Math.imul(Number.parseInt(flow.slice(8), 16), 0x9e3779b1) >>> 0 < this.#below
  }

  ended(line: EndedFlow, policy: string, { plannedAt, tries, ...decided }: FlowDecisions, startedAt: number): void {
    const { id, name, port, end, reason, ageMs } = line
    const endMs = this.#options.clock.wall()
    const startMs = endMs - ageMs
    const at = (now: number) => startMs + (now - startedAt)
    const planned =
      plannedAt === undefined
        ? []
        : [{ name: 'planned', atMs: at(plannedAt), attributes: under('hedgerow.plan', { ...decided }) }]
    const { traceId } = idsOf(id)
    this.#options.emit({
      traceId,
      spanId: id,
      name: `${name}:${port}`,
      kind: 'client',
      startMs,
      endMs,
      attributes: flowAttributes(line, policy),
      events: [
        ...planned,
        ...tries.map(({ at: triedAt, ...tried }) => ({
          name: 'tried',
          atMs: at(triedAt),
          attributes: under('hedgerow.try', { ...tried, reason: tried.reason === '' ? undefined : tried.reason }),
        })),
      ],
      error: WELL.has(end) ? undefined : reason === '' ? end : `${end}: ${reason}`,
    })
  }

  taken({ request, instance, peer, path, ageMs, end, received, sent, error }: TakenFlow): void {
    const { flow, port, protocol, caller } = request
    const { traceId, below } = idsOf(flow)
    const endMs = this.#options.clock.wall()
    this.#options.emit({
      traceId,
      spanId: below,
      parentSpanId: flow,
      name: `${instance}:${port}`,
      kind: 'server',
      startMs: endMs - ageMs,
      endMs,
      attributes: {
        'server.port': port,
        'network.transport': protocol,
        ...under('hedgerow', {
          flow,
          caller: caller.kind === 'instance' ? caller.id : peer,
          instance,
          peer,
          path,
          received,
          sent,
          end,
        }),
      },
      events: [],
      error,
    })
  }
}

/** What OpenTelemetry is told of a flow at its caller. */
export function flowAttributes(line: EndedFlow, policy: string): Attributes {
  const { id, caller, name, port, protocol, mode, instance, node, path, sent, received, end } = line
  return {
    'server.address': name,
    'server.port': port,
    'network.transport': protocol,
    ...under('hedgerow', { flow: id, caller, mode, policy, instance, node, path, sent, received, end }),
  }
}

/** The id of a flow is that of its first span; the others follow from it. */
export function idsOf(flow: string): { traceId: string; below: string } {
  const hash = createHash('sha256').update(`flow ${flow}`).digest('hex')
  return { traceId: hash.slice(0, 32), below: hash.slice(32, 48) }
}

/** `hedgerow.try.isEarly` is `hedgerow.try.is_early`. */
function under(prefix: string, values: Attributes): Attributes {
  const snake = (key: string) => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [`${prefix}.${snake(key)}`, value]))
}
