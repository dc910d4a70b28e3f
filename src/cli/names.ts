import type { RootClient } from '../client/root-client.ts'
import { type ErrorCode, isMeshError, MeshError } from '../core/errors.ts'
import { nearest } from '../core/kit/suggest.ts'
import { rootClient, type Context } from './context.ts'
import { hasCredential } from './roles-here.ts'

/** Longer names there are not. */
const MOST_CHARS = 400

/** What the root lists by names. */
export type ListedKind =
  | 'apps'
  | 'services'
  | 'instances'
  | 'runs'
  | 'nodes'
  | 'relays'
  | 'links'
  | 'volumes'
  | 'clusters'

/**
 * The full name of a service. `shop.acme.cart` stands for `shop.acme.cart.prod` where the app has one service of that name.
 * @throws MeshError SERVICE_UNKNOWN with the name that was probably meant
 */
export async function serviceNamed(root: RootClient, given: string): Promise<string> {
  const begun = await namesOf(root, 'services', given)
  if (begun.includes(given)) return given
  const longer = begun.filter((id) => id.startsWith(`${given}.`))
  if (longer.length === 1 && given.split('.').length === 3) return longer[0] as string
  throw new MeshError('SERVICE_UNKNOWN', {
    service: given,
    remedy: meantService(given, await namesOf(root, 'services')),
  })
}

const LABELS = 4

/**
 * Which service was probably meant: one whose name is nearly the same, or begins nearly the same, or that has a word which is nearly
 * this one.
 */
export function meantService(given: string, ids: readonly string[]): string {
  const count = given.split('.').length
  const meant = count >= LABELS ? [nearest(given, ids) ?? []].flat() : servicesLike(given, ids)
  const rule = count === LABELS ? '' : 'The name of a service has four labels, app.app-ns.service.service-ns. '
  if (meant.length === 1) return `${rule}Did you mean ${meant[0]}?`
  if (meant.length > 1) return `${rule}Choose one of: ${shortened(meant)}.`
  return `${rule}\`hedgerow get services\` lists the services there are.`
}

/** Of a name that is too short: each service that begins so, else the nearest beginning; of one word, each that has it. */
function servicesLike(given: string, ids: readonly string[]): string[] {
  const count = given.split('.').length
  const begin = (id: string) => id.split('.').slice(0, count).join('.')
  const beginning = nearest(given, new Set(ids.map(begin)))
  if (beginning !== undefined) return ids.filter((id) => begin(id) === beginning)
  if (count > 1) return []
  const word = nearest(given, new Set(ids.flatMap((id) => id.split('.')[2] ?? [])))
  return ids.filter((id) => id.split('.')[2] === word)
}

/** The error that something is unknown, with what was probably meant; any other error as it is. */
export async function withMeaning(error: unknown, given: string, root: RootClient): Promise<unknown> {
  if (!isMeshError(error) || error.details['remedy'] !== undefined) return error
  const kind = KIND_OF[error.code]
  if (kind === undefined) return error
  const ids = await knownNames(root, kind)
  const remedy = kind === 'services' ? meantService(given, ids) : offered([], nearest(given, ids), kind)
  return new MeshError(error.code, { ...error.details, remedy }, { cause: error.cause })
}

async function knownNames(root: RootClient, kind: ListedKind): Promise<string[]> {
  try {
    return await namesOf(root, kind)
  } catch {
    return [] // the first error is the one to tell
  }
}

/** What there is of a kind, or what begins so. */
export async function namesOf(
  root: RootClient,
  kind: ListedKind,
  begin?: string,
  signal?: AbortSignal,
): Promise<string[]> {
  const query = begin === undefined || begin === '' || begin.length > MOST_CHARS ? {} : { name: begin }
  const rows = await root.all(`/v1/${kind}`, { query }, signal === undefined ? {} : { signal })
  return rows.map((row) => ('id' in row ? row.id : row.name))
}

/** Of a semantic name that is unknown here: which service was probably meant, where the root may be asked. */
export async function withNearService(error: unknown, name: string, context: Context): Promise<unknown> {
  if (!isMeshError(error, 'SERVICE_UNKNOWN') || !hasCredential(context)) return error
  return await withMeaning(error, name.split('.').slice(0, LABELS).join('.'), rootClient(context))
}

const KIND_OF: Partial<Record<ErrorCode, ListedKind>> = {
  SERVICE_UNKNOWN: 'services',
  APP_UNKNOWN: 'apps',
  NODE_UNKNOWN: 'nodes',
  RELAY_UNKNOWN: 'relays',
  VOLUME_UNKNOWN: 'volumes',
  CLUSTER_UNKNOWN: 'clusters',
}

/**
 * The full name of an instance. The name of a service stands for its instance where it has only one.
 * @throws MeshError INSTANCE_UNKNOWN with the names to choose from
 */
export async function instanceNamed(root: RootClient, given: string): Promise<string> {
  const begun = await namesOf(root, 'instances', given)
  if (begun.includes(given)) return given
  const ofService = begun.filter((id) => id.startsWith(`${given}.`))
  if (ofService.length === 1) return ofService[0] as string
  throw new MeshError('INSTANCE_UNKNOWN', {
    instance: given,
    ...(ofService.length > 1 ? { reason: `that is a service with ${ofService.length} instances` } : {}),
    remedy: offered(ofService, nearest(given, await namesOf(root, 'instances')), 'instances'),
  })
}

/**
 * The full name of a node. `n1` stands for `edge/n1` where no other cluster has a node of that name.
 * @throws MeshError NODE_UNKNOWN with the names to choose from
 */
export async function nodeNamed(root: RootClient, given: string): Promise<string> {
  const ids = await namesOf(root, 'nodes')
  if (ids.includes(given)) return given
  const ofName = ids.filter((id) => id.endsWith(`/${given}`))
  if (ofName.length === 1) return ofName[0] as string
  const reason = ofName.length > 1 ? { reason: `${ofName.length} clusters have a node of that name` } : {}
  throw new MeshError('NODE_UNKNOWN', {
    node: given,
    ...reason,
    remedy: offered(ofName, nearest(given, ids) ?? nearNode(given, ids), 'nodes'),
  })
}

/** Of a node or relay that was named without its cluster: which one was probably meant. Undefined where nothing is like it. */
export async function meantMember(
  given: string,
  kind: 'nodes' | 'relays',
  root: RootClient,
): Promise<string | undefined> {
  const ids = await knownNames(root, kind)
  const ofName = ids.filter((id) => id.endsWith(`/${given}`))
  const near = ofName.length === 1 ? ofName[0] : nearNode(given, ids)
  return ofName.length > 1 || near !== undefined ? offered(ofName.length > 1 ? ofName : [], near, kind) : undefined
}

/** By its name alone, without that of its cluster. */
function nearNode(given: string, ids: readonly string[]): string | undefined {
  const nameOf = (id: string) => id.slice(id.indexOf('/') + 1)
  const near = nearest(given, new Set(ids.map(nameOf)))
  return ids.find((id) => nameOf(id) === near)
}

/** As the API has it in its paths. */
export function nodePath(node: string): { cluster: string; node: string } {
  const at = node.indexOf('/')
  return { cluster: node.slice(0, at), node: node.slice(at + 1) }
}

/** One that is being changed. @throws MeshError INSTANCE_UNKNOWN when it is gone */
export async function instanceStill(root: RootClient, instance: string) {
  try {
    return await root.ask('GET', '/v1/instances/{name}', { path: { name: instance } })
  } catch (error) {
    if (!isMeshError(error, 'INSTANCE_UNKNOWN')) throw error
    throw new MeshError('INSTANCE_UNKNOWN', { instance, reason: 'it was removed meanwhile' }, { cause: error })
  }
}

function offered(candidates: readonly string[], near: string | undefined, kind: string): string {
  if (candidates.length > 0) return `Choose one of: ${shortened(candidates)}.`
  if (near !== undefined) return `Did you mean ${near}?`
  return `\`hedgerow get ${kind}\` lists the ${kind} there are.`
}

const MOST_SHOWN = 8

function shortened(names: readonly string[]): string {
  const more = names.length - MOST_SHOWN
  return more > 0 ? `${names.slice(0, MOST_SHOWN).join(', ')} and ${more} more` : names.join(', ')
}
