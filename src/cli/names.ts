import type { RootClient } from '../client/root-client.ts'
import { MeshError } from '../core/errors.ts'
import { nearest } from '../core/kit/suggest.ts'

interface Named {
  id: string
}

/**
 * The full name of a service. `shop.acme.cart` stands for `shop.acme.cart.prod` where the app has one service of that name.
 * @throws MeshError SERVICE_UNKNOWN with the name that was probably meant
 */
export async function serviceNamed(root: RootClient, given: string): Promise<string> {
  const ids = await idsOf(root, 'services')
  if (ids.includes(given)) return given
  const longer = ids.filter((id) => id.startsWith(`${given}.`))
  if (longer.length === 1 && given.split('.').length === 3) return longer[0] as string
  throw new MeshError('SERVICE_UNKNOWN', { service: given, remedy: offered(longer, nearest(given, ids), 'services') })
}

/**
 * The full name of an instance. The name of a service stands for its instance where it has only one.
 * @throws MeshError INSTANCE_UNKNOWN with the names to choose from
 */
export async function instanceNamed(root: RootClient, given: string): Promise<string> {
  const ids = await idsOf(root, 'instances')
  if (ids.includes(given)) return given
  const ofService = ids.filter((id) => id.startsWith(`${given}.`))
  if (ofService.length === 1) return ofService[0] as string
  throw new MeshError('INSTANCE_UNKNOWN', {
    instance: given,
    ...(ofService.length > 1 ? { reason: `that is a service with ${ofService.length} instances` } : {}),
    remedy: offered(ofService, nearest(given, ids), 'instances'),
  })
}

/**
 * The full name of a node. `n1` stands for `edge/n1` where no other cluster has a node of that name.
 * @throws MeshError NODE_UNKNOWN with the names to choose from
 */
export async function nodeNamed(root: RootClient, given: string): Promise<string> {
  const ids = await idsOf(root, 'nodes')
  if (ids.includes(given)) return given
  const ofName = ids.filter((id) => id.endsWith(`/${given}`))
  if (ofName.length === 1) return ofName[0] as string
  const reason = ofName.length > 1 ? { reason: `${ofName.length} clusters have a node of that name` } : {}
  throw new MeshError('NODE_UNKNOWN', {
    node: given,
    ...reason,
    remedy: offered(ofName, nearest(given, ids), 'nodes'),
  })
}

async function idsOf(root: RootClient, kind: 'services' | 'instances' | 'nodes'): Promise<string[]> {
  return (await root.call<Named[]>('GET', `/${kind}`)).map(({ id }) => id)
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
