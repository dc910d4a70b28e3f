/*
 * What is sent to an OpenTelemetry collector, as OTLP has it in JSON: ids in hex, times in nanoseconds and integers as text
 * (github.com/open-telemetry/opentelemetry-proto).
 */

export type Attributes = Readonly<Record<string, string | number | boolean | undefined>>

/** One span, with times in milliseconds since 1970. */
export interface Span {
  /** 32 hex digits. */
  traceId: string
  /** 16 hex digits. */
  spanId: string
  parentSpanId?: string
  name: string
  kind: 'server' | 'client'
  startMs: number
  endMs: number
  attributes: Attributes
  events: readonly { name: string; atMs: number; attributes: Attributes }[]
  /** Why it failed. */
  error?: string | undefined
}

/** One line of a log. */
export interface LogRecord {
  atMs: number
  severity: 'info' | 'warn'
  /** What it says: constant text. */
  sentence: string
  attributes: Attributes
  /** The span that it belongs to. */
  traceId?: string
  spanId?: string
}

export interface Scope {
  name: string
  version: string
}

/** A kind of what is sent. */
export interface Signal<Item> {
  path: string
  /** How an answer calls those that were not taken. */
  rejected: string
  body: (resource: Attributes, scope: Scope, items: readonly Item[]) => object
}

export const SPANS: Signal<Span> = {
  path: '/v1/traces',
  rejected: 'rejectedSpans',
  body: (resource, scope, spans) => ({
    resourceSpans: [
      { resource: { attributes: attributesOf(resource) }, scopeSpans: [{ scope, spans: spans.map(spanOf) }] },
    ],
  }),
}

export const LOG_RECORDS: Signal<LogRecord> = {
  path: '/v1/logs',
  rejected: 'rejectedLogRecords',
  body: (resource, scope, records) => ({
    resourceLogs: [
      { resource: { attributes: attributesOf(resource) }, scopeLogs: [{ scope, logRecords: records.map(recordOf) }] },
    ],
  }),
}

function spanOf({
  traceId,
  spanId,
  parentSpanId,
  name,
  kind,
  startMs,
  endMs,
  attributes,
  events,
  error,
}: Span): object {
  return {
    traceId,
    spanId,
    ...(parentSpanId === undefined ? {} : { parentSpanId }),
    name,
    kind: kind === 'server' ? 2 : 3,
    startTimeUnixNano: nanosecondsOf(startMs),
    endTimeUnixNano: nanosecondsOf(endMs),
    attributes: attributesOf(attributes),
    events: events.map((event) => ({
      name: event.name,
      timeUnixNano: nanosecondsOf(event.atMs),
      attributes: attributesOf(event.attributes),
    })),
    status: error === undefined ? {} : { code: 2, message: error },
  }
}

function recordOf({ atMs, severity, sentence, attributes, traceId, spanId }: LogRecord): object {
  const time = nanosecondsOf(atMs)
  return {
    timeUnixNano: time,
    observedTimeUnixNano: time,
    severityNumber: severity === 'info' ? 9 : 13,
    severityText: severity.toUpperCase(),
    body: { stringValue: sentence },
    attributes: attributesOf(attributes),
    ...(traceId === undefined ? {} : { traceId, spanId }),
  }
}

/** A number of them is larger than a double holds; microseconds are not. */
function nanosecondsOf(ms: number): string {
  return `${Math.round(ms * 1_000)}000`
}

function attributesOf(attributes: Attributes): object[] {
  return Object.entries(attributes).flatMap(([key, value]) =>
    value === undefined ? [] : { key, value: valueOf(value) },
  )
}

function valueOf(value: string | number | boolean): object {
  if (typeof value === 'string') return { stringValue: value }
  if (typeof value === 'boolean') return { boolValue: value }
  return Number.isSafeInteger(value) ? { intValue: `${value}` } : { doubleValue: value }
}
