import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import type { Principal } from '../../core/identity/contract.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import { issueNode, issueRelay } from '../../core/identity/issuer.ts'
import { nodeIdOf } from '../../core/identity/principal.ts'
import { parseToken } from '../../core/identity/token.ts'
import type { Clock } from '../../core/kit/clock.ts'
import { WebSocketDoor } from '../../core/kit/websocket.ts'
import type { NodeId } from '../../core/model/ids.ts'
import { type App, reader, type Upgrade } from '../link/link-server.ts'
import type { JoinTokens } from '../link/join-tokens.ts'
import { Csr, Label } from '../link/schemas.ts'
import type { ClusterStore } from './cluster-store.ts'
import type { Nodes } from './nodes.ts'
import type { Relays } from './relays.ts'

/** Takes over a socket whose peer is proven. */
export type Relayed = (request: IncomingMessage, socket: Duplex, head: Buffer, principal: Principal) => void

const readEnrol = reader(
  Type.Object({ token: Type.String({ maxLength: 4_096 }), csr: Csr, name: Label }, { additionalProperties: false }),
)

export interface RouteParts {
  identity: HeldIdentity
  store: ClusterStore
  nodes: Nodes
  relays: Relays
  joins: Readonly<Record<'node' | 'relay', JoinTokens>>
  fingerprint: string
  name: string
  clock: Clock
  isRevoked: (node: NodeId) => boolean
}

/** Links of this cluster's nodes and relays. */
export function linkUpgrade(
  cluster: string,
  { nodes, relays, store, isRevoked }: Pick<RouteParts, 'nodes' | 'relays' | 'store' | 'isRevoked'>,
): Upgrade {
  const webSockets = new WebSocketDoor()
  return (request, socket, head, principal) => {
    const isOurs = principal.role !== 'root' && principal.cluster === cluster
    if (isOurs && principal.role === 'relay') {
      const { relay } = principal
      if (!relays.isKnown(relay)) throw new MeshError('FORBIDDEN', { relay, reason: 'not a relay of this cluster' })
      return webSockets.acceptText(request, socket, head, (channel) => relays.take(relay, channel))
    }
    if (!isOurs || principal.role !== 'node') {
      throw new MeshError('FORBIDDEN', { reason: 'links here are for nodes and relays of this cluster' })
    }
    const node = nodeIdOf(principal)
    if (isRevoked(node)) throw new MeshError('FORBIDDEN', { node, reason: 'revoked' })
    if (store.nodes.get(principal.node) === undefined) throw new MeshError('NODE_UNKNOWN', { node })
    webSockets.acceptText(request, socket, head, (channel) => nodes.take(node, channel))
  }
}

/** Relayed connections of any node of the mesh. */
export function relayUpgrade(onRelay: Relayed, isRevoked: (node: NodeId) => boolean): Upgrade {
  return (request, socket, head, principal) => {
    if (principal.role !== 'node') throw new MeshError('FORBIDDEN', { reason: 'relays are for nodes' })
    const node = nodeIdOf(principal)
    if (isRevoked(node)) throw new MeshError('FORBIDDEN', { node, reason: 'revoked' })
    onRelay(request, socket, head, principal)
  }
}

/** What answers without credentials: life, whom to trust, and joining (with a token). */
export function openRoutes(
  app: App,
  { identity, store, nodes, relays, joins, fingerprint, name, clock, isRevoked }: RouteParts,
): void {
  const open = { config: { open: true } } as const
  app.get('/healthz', open, () => ({ status: 'ok' }))
  app.get('/ca', open, () => ({ fingerprint, ca: identity.ca }))
  const enrolRelay = async (token: string, csr: string, relay: string) => {
    joins.relay.check(token)
    const refuseTwo = () => {
      if (!relays.isLinked(relay)) return
      throw new MeshError('TOKEN_REFUSED', {
        relay,
        reason: 'a relay of this name is here',
        remedy: 'join under another name',
      })
    }
    refuseTwo()
    const chain = await issueRelay(identity, csr, relay, { clock })
    joins.relay.consume(token, () => {
      refuseTwo()
      relays.enrolled(relay)
    })
    return { chain, ca: identity.ca, relay: `${name}/${relay}` }
  }
  app.post('/enrol', { ...open, bodyLimit: 16_384 }, async ({ body }) => {
    const { token, csr, name: node } = readEnrol(body)
    if (parseToken(token).role === 'relay') return enrolRelay(token, csr, node)
    joins.node.check(token) // cheap, before anything is signed
    const id = `${name}/${node}`
    const refuse = (reason: string) => {
      throw new MeshError('TOKEN_REFUSED', { node: id, reason, remedy: 'join under another name' })
    }
    if (isRevoked(id)) refuse('this name was revoked and rests until its last certificate is over')
    if (nodes.isExpected(id)) refuse('a node of this name is here')
    const chain = await issueNode(identity, csr, node, { clock })
    joins.node.consume(token, () => {
      if (isRevoked(id) || nodes.isExpected(id)) refuse('a node of this name is here')
      store.nodes.put(node, { name: node, enrolledAt: clock.wall() })
    })
    return { chain, ca: identity.ca, node: id }
  })
}
