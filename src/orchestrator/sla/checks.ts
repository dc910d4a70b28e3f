import type { CheckSpec, LivenessSpec, PortSpec } from '../spec.ts'
import { Fields } from './fields.ts'
import { quoted, type Findings } from './findings.ts'

/** When an instance is ready. */
export function readCheck(service: Fields, ports: readonly PortSpec[], findings: Findings): CheckSpec | undefined {
  if (!service.has('check')) return undefined
  const fields = Fields.read(service.value('check'), ['check'], service.at('check'), findings)
  if (fields === undefined) return undefined
  const kind = fields.text('type') === 'http' ? 'http' : 'tcp'
  const path = fields.text('path') ?? '/'
  const port = readPort(fields, ports, findings)
  if (port === undefined) return undefined
  checkPath(fields, path, findings)
  if (kind === 'tcp' && fields.has('path'))
    findings.warn(fields.at('path'), 'path has no effect in a tcp check', 'set "type": "http"')
  const intervalMs = fields.number('interval_ms') ?? 2_000
  return { kind, port, path, intervalMs, timeoutMs: fields.number('timeout_ms') ?? 1_000 }
}

/** When an instance hangs: a probe as Kubernetes writes it. */
export function readLiveness(
  service: Fields,
  ports: readonly PortSpec[],
  findings: Findings,
): LivenessSpec | undefined {
  if (!service.has('livenessProbe')) return undefined
  const where = service.at('livenessProbe')
  const fields = Fields.read(service.value('livenessProbe'), ['livenessProbe'], where, findings)
  if (fields === undefined) return undefined
  const kinds = (['httpGet', 'tcpSocket'] as const).filter((key) => fields.isGiven(key))
  const [kind] = kinds
  if (kind === undefined || kinds.length > 1) {
    const problem = kind === undefined ? 'needs httpGet or tcpSocket' : 'has both httpGet and tcpSocket'
    findings.fault(where, problem, 'write for example "httpGet": {"path": "/healthz"}')
    return undefined
  }
  const target = Fields.read(fields.value(kind) ?? {}, ['probeTarget'], fields.at(kind), findings)
  const port = target && readPort(target, ports, findings)
  if (target === undefined || port === undefined) return undefined
  const path = target.text('path') ?? '/'
  checkPath(target, path, findings)
  return {
    kind: kind === 'httpGet' ? 'http' : 'tcp',
    port,
    path,
    initialDelayMs: (fields.number('initialDelaySeconds') ?? 0) * 1_000,
    intervalMs: (fields.number('periodSeconds') ?? 10) * 1_000,
    timeoutMs: (fields.number('timeoutSeconds') ?? 1) * 1_000,
    failures: fields.number('failureThreshold') ?? 3,
  }
}

/** The TCP port that is checked, the first one by default. */
function readPort(fields: Fields, ports: readonly PortSpec[], findings: Findings): number | undefined {
  const tcp = ports.filter(({ protocol }) => protocol === 'tcp').map(({ port }) => port)
  const port = fields.number('port') ?? tcp[0]
  if (port !== undefined && tcp.includes(port)) return port
  const has = tcp.length === 0 ? 'no TCP port' : `${tcp.join(', ')} only`
  findings.fault(
    port === undefined ? fields.path : fields.at('port'),
    `must be a TCP port of the service, which has ${has}`,
  )
  return undefined
}

function checkPath(fields: Fields, path: string, findings: Findings): void {
  if (!/^\/[\x21-\x7e]*$/.test(path))
    findings.fault(fields.at('path'), `${quoted(path)} must begin with / and contain only printable characters`)
}
