import { FlowSpans } from '../../proxy/flow/spans.ts'
import { MeshError } from '../core/errors.ts'
import { OtlpExporter } from '../core/kit/otlp.ts'
import type { AgentContext } from './context.ts'

/** Where spans of flows go, if the operator has named a collector. @throws MeshError CONFIG_INVALID */
export async function openTracing({
  life,
  self,
  config,
  version,
  clock,
  log,
  metrics,
}: AgentContext): Promise<FlowSpans | undefined> {
  const { endpoint, headers, ratio } = config.tracing
  if (endpoint === 'off') return undefined
  if (!URL.canParse(endpoint))
    throw new MeshError('CONFIG_INVALID', { problem: `agent.tracing.endpoint: ${endpoint} is no URL` })
  const exporter = life.use(
    await OtlpExporter.start(
      {
        endpoint,
        headers,
        resource: { 'service.name': 'hedgerow', 'service.version': version, 'service.instance.id': self },
        scope: { name: 'hedgerow', version },
      },
      { clock, log, counted: (result, count) => metrics.spans.labels(result).inc(count) },
    ),
  )
  return new FlowSpans({ ratio, clock, emit: (span) => exporter.offer(span) })
}
