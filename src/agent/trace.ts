import type { FastPath } from '../../proxy/kernel/fast-path.ts'
import type { Obstacle } from '../../proxy/intercept/vip-listeners.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { previewChoice } from '../../proxy/decide/plan.ts'
import { trace, type TraceStep } from '../../proxy/outbound/trace.ts'
import { MeshError } from '../core/errors.ts'
import { cipherName } from '../core/identity/ciphers.ts'
import { vipToIPv4, vipToIPv6, type VipRange } from '../core/model/address.ts'
import { Cancellation } from '../core/kit/cancellation.ts'
import { choiceKey } from '../core/model/choice.ts'
import type { NodeId } from '../core/model/ids.ts'
import { printName } from '../core/model/name.ts'
import { findNameOrAsk } from '../core/table/find-name.ts'
import type { ResolveReport, TraceReport } from '../client/reports.ts'
import type { Target } from '../core/table/view.ts'
import type { AgentParts } from './parts.ts'

/** What a name means here, and in which order its instances would be tried. */
export async function resolveOf(text: string, agent: AgentParts): Promise<ResolveReport> {
  const { context, identity, flows } = agent
  const { vips } = identity
  const { config } = context
  const target = await targetOf(text, agent)
  const obstacles = await obstaclesOf(target, agent)
  const { service, choice, vip } = target
  const ipv6 = vipToIPv6(vips, vip)
  const { instances, reason } = previewChoice(target, NODE_CALLER, flows.parts)
  return {
    name: text,
    canonical: canonical(target, config.zones),
    service: service.id,
    choice: choiceKey(choice),
    ipv4: vipToIPv4(vips, vip),
    ...(ipv6 === undefined ? {} : { ipv6 }),
    ports: [...service.ports],
    order: instances.map(({ id, node, state }) => ({ instance: id, node, state })),
    reason,
    ...(obstacles.length === 0 ? {} : { obstacles: obstacles.map(({ reason }) => reason) }),
  }
}

/** Its listeners are open now, since whoever reads the address may call it at once; else why a port of it is not ours. */
async function obstaclesOf(target: Target, { interceptor }: AgentParts): Promise<{ reason: string; of?: Obstacle }[]> {
  const unanswered = await interceptor.prepare(target)
  const found = await interceptor.obstacles(target)
  if (found.length === 0 && unanswered !== undefined) return [{ reason: unanswered }]
  return found.map((of) => ({ reason: of.reason, of }))
}

/** Opens one real connection, and reports every decision on its way. */
export async function traceOf(text: string, agent: AgentParts): Promise<TraceReport> {
  const match = /^(.+):(\d{1,5})(?:\/(tcp|udp))?$/.exec(text)
  if (match === null || Number(match[2]) < 1 || Number(match[2]) > 65_535)
    throw new MeshError('USAGE', {
      target: text,
      remedy: 'Expected NAME:PORT, for example shop.acme.cart.prod.any.closest.local:8080, or with :53/udp.',
    })
  const name = match[1] as string
  const target = await targetOf(name, agent)
  const port = { port: Number(match[2]), protocol: match[3] === 'udp' ? 'udp' : 'tcp' } as const
  const obstacles = await obstaclesOf(target, agent)
  const intent = { target, ...port, caller: NODE_CALLER }
  const steps = await trace(intent, agent.flows.parts, Cancellation.from(AbortSignal.timeout(10_000)))
  const last = steps.at(-1)
  const cipher = last?.step === 'connected' ? cipherTo(last.node, agent) : undefined
  return {
    name,
    steps: [
      { step: 'name', what: canonical(target, agent.context.config.zones) },
      ...pathsStep(target, agent),
      ...obstacles
        .filter(({ of }) => of === undefined || (of.port === port.port && of.protocol === port.protocol))
        .map(({ reason }) => ({ step: 'listener', what: reason })),
      ...steps.flatMap((step) => [
        describeStep(step, agent.identity.vips, cipher),
        ...(step.step === 'target' && agent.fastPath !== undefined ? [fastPathStep(target, port, agent.fastPath)] : []),
      ]),
    ],
    ok: last?.step === 'connected',
    ...(last?.step === 'connected'
      ? {
          instance: last.instance,
          node: last.node,
          path: last.path,
          ...(cipher === undefined ? {} : { cipher }),
          connectMs: micro(last.ms),
        }
      : {}),
  }
}

/** Which paths it may take, where the node or the service has a rule. */
function pathsStep({ service }: Target, { context: { config } }: AgentParts): TraceReport['steps'] {
  const rules = [
    ...(config.paths === 'any' ? [] : [`this node’s operator allows ${config.paths}`]),
    ...(service.paths === undefined ? [] : [`the service asks for ${service.paths}`]),
  ]
  return rules.length === 0 ? [] : [{ step: 'paths', what: rules.join('; ') }]
}

/** What the session with that node is encrypted with; nothing on this node itself. */
function cipherTo(node: NodeId, { connectivity: { peers } }: AgentParts): string | undefined {
  const cipher = peers.existing(node)?.report().cipher
  return cipher === undefined ? undefined : cipherName(cipher)
}

function describeStep(step: TraceStep, vips: VipRange, cipher: string | undefined): TraceReport['steps'][number] {
  switch (step.step) {
    case 'target':
      return { step: 'vip', what: `${vipToIPv4(vips, step.vip)}:${step.port}`, ms: micro(step.ms) }
    case 'authorised':
      return {
        step: 'permission',
        what: `${step.caller} ${step.allowed ? 'may' : 'may not'} call: ${step.reason}`,
        ms: micro(step.ms),
      }
    case 'ordered':
      return {
        step: 'order',
        what: `${step.instances.map(({ instance, node }) => `${instance} on ${node}`).join(', ') || 'none'} (${step.reason})`,
        ms: micro(step.ms),
      }
    case 'tried':
      return {
        step: 'try',
        what: `${step.instance} on ${step.node} by ${step.path ?? 'no path'}: ${step.outcome}${step.reason === '' ? '' : `, ${step.reason}`}`,
        ms: micro(step.ms),
      }
    case 'connected':
      return {
        step: 'connected',
        what: `${step.instance} on ${step.node}, path ${step.path}${cipher === undefined ? '' : `, ${cipher}`}`,
        ms: micro(step.ms),
      }
    case 'failed':
      return { step: 'failed', what: step.reason, ms: micro(step.ms) }
    default:
      return step satisfies never
  }
}

/** Whether the kernel carries such flows of this node's processes; the other steps are of a flow that the agent carries. */
function fastPathStep(
  target: Target,
  port: Parameters<FastPath['explain']>[1],
  fastPath: FastPath,
): TraceReport['steps'][number] {
  const { path, reason } = fastPath.explain(target, port)
  return { step: 'fast path', what: path === 'kernel' ? `kernel: ${reason}` : `user space, because ${reason}` }
}

/** Rounded to the microsecond; more digits are noise. */
function micro(ms: number): number {
  return Math.round(ms * 1_000) / 1_000
}

/** @throws MeshError NAME_INVALID, SERVICE_UNKNOWN, or that the cluster cannot be asked */
async function targetOf(name: string, { sync: { table, interests }, context }: AgentParts): Promise<Target> {
  const { zones } = context.config
  const found = await findNameOrAsk(name, { table, interests, zones })
  switch (found.kind) {
    case 'target':
      return found.target
    case 'unknown':
      throw new MeshError('SERVICE_UNKNOWN', { name, reason: found.reason })
    case 'invalid':
      throw new MeshError('NAME_INVALID', { name, label: found.label, reason: found.reason })
    case 'outside':
      throw new MeshError('NAME_INVALID', { name, reason: `it ends in none of the zones ${zones.join(', ')}` })
    default:
      return found satisfies never
  }
}

function canonical({ service, choice }: Target, [zone = 'local']: readonly string[]): string {
  const { app, appNamespace, name, namespace } = service
  return printName({ app, appNamespace, service: name, serviceNamespace: namespace, choice }, zone)
}
