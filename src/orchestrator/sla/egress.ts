import { readEgressRule } from '../../core/model/egress.ts'
import type { ServiceSpec } from '../spec.ts'
import { type Fields, nounOf } from './fields.ts'
import { quoted, type Findings } from './findings.ts'

const MOST = 64

/** `all`, `none`, `names`, or a list of what may be reached. */
export function readEgress(
  fields: Fields,
  runtime: string,
  findings: Findings,
): Pick<ServiceSpec, 'egress' | 'egressTo'> {
  if (!fields.has('egress')) return {}
  const [path, value] = [fields.at('egress'), fields.value('egress')]
  if (value === 'all') return {}
  if (runtime === 'external') {
    findings.warn(path, 'has no effect in the runtime external')
    return {}
  }
  if (value === 'none' || value === 'names') return { egress: 'none' }
  if (!Array.isArray(value)) {
    findings.fault(path, `must be all, none, names or a list, not ${nounOf(value)}`)
    return {}
  }
  if (value.length > MOST) findings.fault(path, `has ${value.length} entries; ${MOST} is the limit`)
  const rules = (value as unknown[]).flatMap((entry, i) => {
    if (entry === 'names' || entry === 'none') return [] // the mesh is reached in any case
    const text = typeof entry === 'string' ? entry.trim().toLowerCase() : undefined
    const rule = text === undefined ? 'not a text' : readEgressRule(text)
    if (text !== undefined && typeof rule !== 'string') return [text]
    const problem = typeof rule === 'string' ? rule : ''
    const shown = typeof entry === 'string' ? quoted(entry) : nounOf(entry)
    findings.fault(
      `${path}[${i}]`,
      `${shown}: ${problem}`,
      'write for example "10.0.0.0/8:443", "192.0.2.7" or "api.example.com:443"',
    )
    return []
  })
  return rules.length === 0 ? { egress: 'none' } : { egress: 'none', egressTo: [...new Set(rules)] }
}
