import { type ParsedName, parseName } from '../model/name.ts'
import type { Found, InterestSource, TableView } from './view.ts'

/** What a text stands for: what the table has under that name, or why it is no name of the mesh. */
export type NameFound = Found | Exclude<ParsedName, { kind: 'name' }>

/** Reads a name in one of `zones` and looks it up. The one way from a name to its target: for DNS, the proxies and the CLI. */
export function findName(text: string, zones: readonly string[], table: Pick<TableView, 'find'>): NameFound {
  const parsed = parseName(text, zones)
  return parsed.kind === 'name' ? table.find(parsed.name) : parsed
}

export interface NameSources {
  readonly table: Pick<TableView, 'find'>
  readonly interests: Pick<InterestSource, 'want'>
  readonly zones: readonly string[]
}

/**
 * The same, after asking the cluster about a name that this node has not asked for before.
 * @throws MeshError REQUEST_TIMEOUT or LINK_CLOSED when the cluster cannot be asked
 */
export async function findNameOrAsk(
  text: string,
  { table, interests, zones }: NameSources,
): Promise<Exclude<NameFound, { kind: 'unasked' }>> {
  const found = findName(text, zones, table)
  if (found.kind !== 'unasked') return found
  await interests.want(found.key)
  const asked = findName(text, zones, table)
  return asked.kind === 'unasked' ? { kind: 'unknown', reason: `the cluster does not know ${asked.key}` } : asked
}
