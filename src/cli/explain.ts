import type { Command } from 'commander'
import { isMeshError, MeshError } from '../core/errors.ts'
import { printable } from '../core/kit/printable.ts'
import type { components } from '../client/api-types.ts'
import type { RootClient } from '../client/root-client.ts'
import { rootClient, type Context } from './context.ts'
import { instanceNamed, serviceNamed } from './names.ts'
import { type Cell, isData, printData, tableText } from './output.ts'

interface ExplainOptions {
  limit: string
  anew?: boolean
}

type Explanation = components['schemas']['Explanation']
type Tier = components['schemas']['TierExplanation']

export function explainCommand(program: Command, context: () => Context): void {
  program
    .command('explain')
    .description(
      'show why an instance is where it is, or where one of a service would go: every candidate, what each filter and score says of it',
    )
    .argument('<name>', 'an instance (app.app-ns.service.service-ns.number) or a service')
    .option('--anew', 'what would be decided now, also where the decision that was made is kept')
    .option('-n, --limit <candidates>', 'how many candidates of each tier, the best first', '100')
    .action(async (given: string, { limit, anew }: ExplainOptions) => {
      if (!/^[1-9]\d{0,2}$|^1000$/.test(limit))
        throw new MeshError('USAGE', {
          option: '--limit',
          given: limit,
          remedy: 'Expected a whole number from 1 to 1000.',
        })
      const query = { most: Number(limit), ...(anew === true ? { anew } : {}) }
      const found = await explanationOf(rootClient(context()), given, query)
      if (isData(context())) await printData(found, context())
      else process.stdout.write(textOf(found))
    })
}

/** By its full name at once; only a name that the root does not know is looked up. */
export async function explanationOf(
  root: RootClient,
  given: string,
  query: { most: number; anew?: boolean },
): Promise<Explanation> {
  const ask = (kind: 'instances' | 'services', name: string) =>
    root.ask('GET', `/v1/${kind}/{name}/explain`, { path: { name }, query })
  try {
    return await ask(/\.\d+$/.test(given) ? 'instances' : 'services', given)
  } catch (error) {
    if (isMeshError(error, 'INSTANCE_UNKNOWN') && !('reason' in error.details))
      return await ask('instances', await instanceNamed(root, given)) // says which was meant
    if (!isMeshError(error, 'SERVICE_UNKNOWN')) throw error
    return await ask('services', await serviceNamed(root, given))
  }
}

export function textOf({ service, instance, state, node, detail, root, clusters }: Explanation): string {
  const where = node === undefined ? '' : ` on ${node}`
  const why = detail === undefined ? '' : `: ${detail}`
  const head = instance === undefined ? `${service}: a new instance${why}` : `${instance}: ${state}${where}${why}`
  return [
    `${printable(head)}\n`,
    tierText('Clusters, by the root', root),
    ...clusters.map(({ cluster, nodes, unknown }) =>
      nodes === undefined
        ? `Nodes, by cluster ${cluster}: not known: ${printable(unknown ?? '')}\n`
        : tierText(`Nodes, by cluster ${cluster}`, nodes),
    ),
  ].join('\n')
}

function tierText(title: string, tier: Tier): string {
  const { strategy, filters, terms, candidates, fit, judged, chosen, why, at } = tier
  const when = at === undefined ? 'what would be decided now' : `as decided at ${new Date(at).toISOString()}`
  const outcome = chosen === undefined ? `none can take it${nearestOf(judged)}` : `${chosen} is chosen: ${why ?? ''}`
  const rest = candidates - judged.length
  const lines = [
    `${title} (${when}): ${outcome}`,
    `${fit} of ${candidates} can take it. Strategy ${strategy}: the first score that differs counts, larger is better.`,
    `Filters: ${filters.join(', ')}.`,
  ].map(printable)
  if (judged.length === 0) return `${lines.join('\n')}\n`
  const length = Math.max(0, ...judged.map(({ score }) => score?.length ?? 0))
  const columns = Array.from({ length }, (_, index) => terms[index] ?? `score ${index + 1}`)
  const rows = judged.map(({ id, refusals, score }): Cell[] => {
    const refused = Object.entries(refusals).map(([filter, reason]) => `${filter}: ${reason}`)
    const result = id === chosen ? 'chosen' : score === undefined ? 'refused' : 'fits'
    const values = columns.map((_, index) => (score?.[index] === undefined ? undefined : rounded(score[index])))
    return [id, result, refused.length === 0 ? 'all pass' : refused, ...values]
  })
  const more = rest > 0 ? `… and ${rest} more\n` : ''
  return `${lines.join('\n')}\n${tableText(['candidate', 'result', 'filters', ...columns], rows)}${more}`
}

/** What speaks least against. */
function nearestOf([nearest]: Tier['judged']): string {
  if (nearest === undefined) return ''
  const reasons = Object.entries(nearest.refusals).map(([filter, reason]) => `${filter}: ${reason}`)
  return `; ${nearest.id} comes nearest, but for ${reasons.join(', ')}`
}

function rounded(value: number): number {
  return Math.round(value * 1_000) / 1_000
}
