import { flowAttributes, FlowSpans, idsOf } from '../../proxy/flow/spans.ts'
import type { LedgerParts } from '../../proxy/flow/ledger.ts'
import type { EndedFlow, LoggedFlow } from '../../proxy/flow/flow-line.ts'
import { MeshError } from '../core/errors.ts'
import { OtlpExporter, type OtlpOptions } from '../core/kit/otlp.ts'
import { LOG_RECORDS, SPANS, type Attributes, type LogRecord } from '../core/kit/otlp-signals.ts'
import { SyslogSender } from '../core/kit/syslog.ts'
import type { SyslogLine } from '../core/kit/syslog-wires.ts'
import { checkTlsFiles } from '../core/kit/tls-files.ts'
import type { AgentContext } from './context.ts'

/*
 * What other machines are told of flows, beside metrics and the log: spans, and a line for each that has ended.
 *
 *     agent.tracing    spans of a share of the flows     OTLP
 *     agent.flowLog    each ended flow                   OTLP, or a syslog daemon
 */

export type Environment = Readonly<Record<string, string | undefined>>

/** Where spans of flows go, if the operator has named a collector. @throws MeshError CONFIG_INVALID */
export async function openTracing(context: AgentContext, environment: Environment): Promise<FlowSpans | undefined> {
  const { life, config, clock, log, metrics } = context
  const { endpoint, headers, ratio } = config.tracing
  if (endpoint === 'off') return undefined
  const { href } = urlOf(endpoint, 'tracing')
  const exporter = life.use(
    await OtlpExporter.start(
      { signal: SPANS, endpoint: href, headers, environment, ...introduction(context) },
      { clock, log, counted: (result, count) => metrics.spans.labels(result).inc(count) },
    ),
  )
  return new FlowSpans({ ratio, clock, emit: (span) => exporter.offer(span) })
}

/** Where a line for each ended flow goes, if the operator has named a daemon or collector. @throws MeshError CONFIG_INVALID */
export async function openFlowLog(context: AgentContext, environment: Environment): Promise<LedgerParts['flowLog']> {
  const { life, self, config, clock, log, metrics } = context
  const { endpoint, headers, tls } = config.flowLog
  if (endpoint === 'off') return undefined
  const url = urlOf(endpoint, 'flowLog')
  const parts = {
    clock,
    log,
    counted: (result: 'sent' | 'failed' | 'dropped', count: number) => metrics.flowLog.labels(result).inc(count),
  }
  if (!url.protocol.startsWith('http')) {
    if (url.protocol === 'tls:') checkTlsFiles('agent.flowLog.tls', tls)
    const sender = life.use(await SyslogSender.start(url, { ...parts, tls }))
    return (ended) => sender.offer(lineOf(ended, self, clock.wall()))
  }
  const exporter = life.use(
    await OtlpExporter.start(
      { signal: LOG_RECORDS, endpoint: url.href, headers, environment, ...introduction(context) },
      parts,
    ),
  )
  return (ended) => exporter.offer(recordOf(ended, clock.wall()))
}

function urlOf(endpoint: string, setting: string): URL {
  if (!URL.canParse(endpoint))
    throw new MeshError('CONFIG_INVALID', { problem: `agent.${setting}.endpoint: ${endpoint} is no URL` })
  return new URL(endpoint)
}

function introduction({ self, version }: AgentContext): Pick<OtlpOptions<never>, 'resource' | 'scope'> {
  return {
    resource: { 'service.name': 'hedgerow', 'service.version': version, 'service.instance.id': self },
    scope: { name: 'hedgerow', version },
  }
}

/** Of a refused flow: which instances were tried, and why none took it. Longer, a line would not fit into a datagram. */
const REASON = 500

/** The same fields as in the log, in the same order, as JSON. */
export function lineOf({ line, policy, isRefused }: LoggedFlow, self: string, atMs: number): SyslogLine {
  const { id, caller, name, port, protocol, mode, instance, node, path, sent, received, end, ageMs } = line
  const flow = { flow: id, caller, name, port, protocol, mode, policy, instance, node, path, sent, received, end }
  const text = JSON.stringify({
    msg: sentenceOf(isRefused),
    at: self,
    ...flow,
    ms: Math.round(ageMs),
    ...reasonOf(line),
  })
  return {
    atMs,
    severity: isRefused ? 'warn' : 'info',
    kind: isRefused ? 'flow-refused' : 'flow-ended',
    text: inAscii(text),
  }
}

export function recordOf({ line, policy, isRefused, isTraced }: LoggedFlow, atMs: number): LogRecord {
  const attributes: Attributes = { ...flowAttributes(line, policy), 'hedgerow.ms': Math.round(line.ageMs) }
  const { reason } = reasonOf(line)
  return {
    atMs,
    severity: isRefused ? 'warn' : 'info',
    sentence: sentenceOf(isRefused),
    attributes: reason === undefined ? attributes : { ...attributes, 'hedgerow.reason': reason },
    ...(isTraced ? { traceId: idsOf(line.id).traceId, spanId: line.id } : {}),
  }
}

function sentenceOf(isRefused: boolean): string {
  return isRefused ? 'flow refused' : 'flow ended'
}

function reasonOf({ reason }: EndedFlow): { reason?: string } {
  return reason === '' ? {} : { reason: reason.slice(0, REASON) }
}

function inAscii(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}
