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
import { WebSocketAcceptor } from '../../core/kit/websocket.ts'
import type { NodeId } from '../../core/model/ids.ts'
import type { JoinTokens } from '../link/join-tokens.ts'
import { type App, reader, type Upgrade } from '../link/link-server.ts'
import type { Revocations } from '../link/revocations.ts'
import { Csr, Label } from '../link/schemas.ts'
import type { ClusterStore } from './cluster-store.ts'
import type { Nodes } from './nodes.ts'
import type { Relays } from './relays.ts'

/** Takes over a socket whose peer has proven its identity. */
export type AcceptRelayed = (request: IncomingMessage, socket: Duplex, head: Buffer, principal: Principal) => void

const readEnrol = reader(
  Type.Object({ token: Type.String({ maxLength: 4_096 }), csr: Csr, name: Label }, { additionalProperties: false }),
)

export interface RouteParts {
  identity: HeldIdentity
  store: ClusterStore
  nodes: Nodes
  relays: Relays
  joinTokens: Readonly<Record<'node' | 'relay', JoinTokens>>
  revocations: Revocations
  fingerprint: string
  /** The cluster's name. */
  name: string
  clock: Clock
}

/** Control links of this cluster's nodes and stand-alone relays. */
export function linkUpgrade(
  cluster: string,
  { nodes, relays, store, revocations }: Pick<RouteParts, 'nodes' | 'relays' | 'store' | 'revocations'>,
): Upgrade {
  const webSockets = new WebSocketAcceptor()
  return (request, socket, head, principal) => {
    const isOurs = principal.role !== 'root' && principal.cluster === cluster
    if (isOurs && principal.role === 'relay') {
      const { relay } = principal
      if (!relays.isKnown(relay))
        throw new MeshError('FORBIDDEN', { relay, reason: 'it is not a relay of this cluster' })
      return webSockets.acceptText(request, socket, head, (channel) => relays.accept(relay, channel))
    }
    if (!isOurs || principal.role !== 'node') {
      throw new MeshError('FORBIDDEN', { reason: 'only nodes and relays of this cluster may open a control link here' })
    }
    const node = nodeIdOf(principal)
    if (revocations.has(node)) throw new MeshError('FORBIDDEN', { node, reason: 'its certificate is revoked' })
    if (store.nodes.get(principal.node) === undefined) throw new MeshError('NODE_UNKNOWN', { node })
    webSockets.acceptText(request, socket, head, (channel) => nodes.accept(node, channel))
  }
}

/** Relayed connections of any node of the mesh. */
export function relayUpgrade(accept: AcceptRelayed, isRevoked: (node: NodeId) => boolean): Upgrade {
  return (request, socket, head, principal) => {
    if (principal.role !== 'node') throw new MeshError('FORBIDDEN', { reason: 'only nodes may use a relay' })
    const node = nodeIdOf(principal)
    if (isRevoked(node)) throw new MeshError('FORBIDDEN', { node, reason: 'its certificate is revoked' })
    accept(request, socket, head, principal)
  }
}

/** What answers without credentials: health, the mesh's authority, and joining (which needs a token). */
export function openRoutes(app: App, parts: RouteParts): void {
  const { identity, fingerprint } = parts
  const open = { config: { open: true } } as const
  app.get('/healthz', open, () => ({ status: 'ok' }))
  app.get('/ca', open, () => ({ fingerprint, ca: identity.ca }))
  app.post('/enrol', { ...open, bodyLimit: 16_384 }, ({ body }) => {
    const { token, csr, name } = readEnrol(body)
    return parseToken(token).role === 'relay'
      ? enrolRelay({ token, csr, name }, parts)
      : enrolNode({ token, csr, name }, parts)
  })
}

interface Enrolment {
  token: string
  csr: string
  /** Of the node or relay that wants to join. */
  name: string
}

async function enrolNode({ token, csr, name }: Enrolment, parts: RouteParts) {
  const { identity, store, nodes, joinTokens, revocations, clock } = parts
  joinTokens.node.check(token) // cheap, so it comes before anything is signed
  const node = `${parts.name}/${name}`
  const refuseIfTaken = () => {
    if (revocations.has(node))
      throw nameTaken({ node }, 'this name was revoked and cannot be used until its last certificate has expired')
    if (nodes.isExpected(node)) throw nameTaken({ node }, 'a node of this name is connected')
  }
  refuseIfTaken()
  const chain = await issueNode(identity, csr, name, { clock })
  joinTokens.node.consume(token, () => {
    refuseIfTaken()
    store.nodes.put(name, { name, enrolledAt: clock.wall() })
  })
  return { chain, ca: identity.ca, node }
}

async function enrolRelay({ token, csr, name }: Enrolment, parts: RouteParts) {
  const { identity, relays, joinTokens, clock } = parts
  joinTokens.relay.check(token)
  const refuseIfTaken = () => {
    if (relays.isLinked(name)) throw nameTaken({ relay: name }, 'a relay of this name is connected')
  }
  refuseIfTaken()
  const chain = await issueRelay(identity, csr, name, { clock })
  joinTokens.relay.consume(token, () => {
    refuseIfTaken()
    relays.enrolled(name)
  })
  return { chain, ca: identity.ca, relay: `${parts.name}/${name}` }
}

function nameTaken(who: { node: string } | { relay: string }, reason: string): MeshError {
  return new MeshError('TOKEN_REFUSED', { ...who, reason, remedy: 'join under another name: --name NAME' })
}
