import type { NodeId } from '../model/ids.ts'
import type { Principal } from './contract.ts'

/** The same letters as a label of a name: safe in URIs, certificates and file names. At most 63 characters. */
const NAME = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?'
const URI_FORM = new RegExp(`^spiffe://(${NAME})/(?:(root)|cluster/(${NAME})(?:/(node|relay)/(${NAME}))?)$`)
const NAME_FORM = new RegExp(`^${NAME}$`)

/** The URI that stands for a principal in certificates (forms: contract.ts). */
export function printPrincipal(principal: Principal): string {
  const mesh = `spiffe://${principal.mesh}`
  switch (principal.role) {
    case 'root':
      return `${mesh}/root`
    case 'cluster':
      return `${mesh}/cluster/${principal.cluster}`
    case 'node':
      return `${mesh}/cluster/${principal.cluster}/node/${principal.node}`
    case 'relay':
      return `${mesh}/cluster/${principal.cluster}/relay/${principal.relay}`
    default:
      principal satisfies never
      throw new Error('unknown role')
  }
}

/** The principal a URI stands for; `undefined` for anything but the exact forms. */
export function parsePrincipal(uri: string): Principal | undefined {
  const match = URI_FORM.exec(uri)
  if (match === null) return undefined
  const [, mesh = '', root, cluster, role, name = ''] = match
  if (root !== undefined) return { role: 'root', mesh }
  if (cluster === undefined) return undefined
  if (role === 'node') return { role, mesh, cluster, node: name }
  return role === 'relay' ? { role, mesh, cluster, relay: name } : { role: 'cluster', mesh, cluster }
}

/** True for who may serve as a relay: it forwards what it cannot read, and says which nodes listen. */
export function mayRelay({ role }: Principal): boolean {
  return role === 'cluster' || role === 'relay'
}

/** `<cluster>/<node>`, the id by which the mesh knows a node. */
export function nodeIdOf(principal: Principal & { role: 'node' }): NodeId {
  return `${principal.cluster}/${principal.node}`
}

/** The URI of a node of this mesh. */
export function nodeUri(mesh: string, id: NodeId): string {
  const [cluster = '', node = ''] = id.split('/')
  return printPrincipal({ role: 'node', mesh, cluster, node })
}

/** True for names that clusters and nodes may have: 1–63 lower-case letters, digits and inner hyphens. */
export function isPrincipalName(name: string): boolean {
  return NAME_FORM.test(name)
}
