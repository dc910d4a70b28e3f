import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import { authoritiesAnswer } from '../../core/identity/authorities.ts'
import type { Principal } from '../../core/identity/contract.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import { provenInGrace } from '../../core/identity/grace.ts'
import { issueNode, issueRelay } from '../../core/identity/issuer.ts'
import { nodeIdOf } from '../../core/identity/principal.ts'
import { parseToken } from '../../core/identity/token.ts'
import type { Clock } from '../../core/kit/clock.ts'
import { WebSocketAcceptor } from '../../core/kit/websocket-acceptor.ts'
import { admit } from '../link/admission.ts'
import type { JoinTokens } from '../link/join-tokens.ts'
import { type App, reader, type Upgrade } from '../link/link-server.ts'
import type { Enrolment as Enrolled } from '../link/messages/cluster-root.ts'
import { Csr, Label, Pem } from '../link/schemas.ts'
import { remembered } from './issued.ts'
import type { ClusterStore } from './cluster-store.ts'
import type { Cordons } from './cordons.ts'
import type { Nodes } from './nodes.ts'
import type { Relays } from './relays.ts'

/** Takes over a socket whose peer has proven its identity. */
export type AcceptRelayed = (request: IncomingMessage, socket: Duplex, head: Buffer, principal: Principal) => void

const readEnrol = reader(
  Type.Object({ token: Type.String({ maxLength: 4_096 }), csr: Csr, name: Label }, { additionalProperties: false }),
)

const readRenewal = reader(Type.Object({ csr: Csr, chain: Pem }, { additionalProperties: false }))

/** Of two machines that join under one name at the same time the first wins; it may take this long to open its link. */
const JUST_JOINED_MS = 30_000

export interface RouteParts {
  identity: HeldIdentity
  store: ClusterStore
  nodes: Nodes
  cordons: Cordons
  relays: Relays
  joinTokens: Readonly<Record<'node' | 'relay', JoinTokens>>
  /** The cluster's name. */
  name: string
  clock: Clock
  /** How long after its end a certificate may still be renewed. */
  graceDays: number | undefined
  /** Somebody has joined. */
  onEnrolled: (enrolment: Enrolled) => void
}

/** Control links of this cluster's nodes and stand-alone relays. */
export function linkUpgrade(
  cluster: string,
  { nodes, relays, store }: Pick<RouteParts, 'nodes' | 'relays' | 'store'>,
): Upgrade {
  const webSockets = new WebSocketAcceptor()
  return (request, socket, head, { principal, enrolment }) => {
    const isOurs = principal.role !== 'root' && principal.cluster === cluster
    if (isOurs && principal.role === 'relay') {
      const { relay } = principal
      if (!relays.isKnown(relay))
        throw new MeshError('FORBIDDEN', { relay, reason: 'it is not a relay of this cluster' })
      refuseReplaced(store.relays.get(relay), enrolment)
      return webSockets.acceptText({ request, socket, head, peer: `relay ${relay}` }, (channel) =>
        relays.accept(relay, channel),
      )
    }
    if (!isOurs || principal.role !== 'node') {
      throw new MeshError('FORBIDDEN', { reason: 'only nodes and relays of this cluster may open a control link here' })
    }
    const node = nodeIdOf(principal)
    const record = store.nodes.get(principal.node)
    if (record === undefined) throw new MeshError('NODE_UNKNOWN', { node })
    refuseReplaced(record, enrolment)
    webSockets.acceptText({ request, socket, head, peer: node }, (channel) => nodes.accept(node, channel))
  }
}

/** Relayed connections of any node of the mesh. */
export function relayUpgrade(accept: AcceptRelayed): Upgrade {
  return (request, socket, head, { principal }) => {
    if (principal.role !== 'node') throw new MeshError('FORBIDDEN', { reason: 'only nodes may use a relay' })
    accept(request, socket, head, principal)
  }
}

/** What answers without credentials: health, the mesh's authority, and joining (which needs a token). */
export function openRoutes(app: App, parts: RouteParts): void {
  const { identity } = parts
  const open = { config: { open: true } } as const
  app.get('/healthz', open, () => ({ status: 'ok' }))
  app.get('/ca', open, () => authoritiesAnswer(identity.ca, identity.trust.presents))
  app.post('/renew', { ...open, bodyLimit: 65_536 }, ({ body, raw }) => renew(raw.socket, readRenewal(body), parts))
  app.post('/enrol', { ...open, bodyLimit: 16_384 }, ({ body }) => {
    const { token, csr, name } = readEnrol(body)
    return parseToken(token).role === 'relay'
      ? enrolRelay({ token, csr, name }, parts)
      : enrolNode({ token, csr, name }, parts)
  })
}

/** A name belongs to who joined under it last: certificates of an earlier enrolment no longer open a link (C3). */
function refuseReplaced(record: { enrolment?: string } | undefined, enrolment: string): void {
  if (record?.enrolment === undefined || record.enrolment === enrolment) return
  throw new MeshError('FORBIDDEN', { reason: 'another machine has joined under this name since' })
}

/** A new certificate for the holder of an expired one (core/identity/grace.ts). */
async function renew(socket: Duplex, { csr, chain }: { csr: string; chain: string }, parts: RouteParts) {
  const { identity, store, name: cluster, clock, graceDays } = parts
  const grace = { now: clock.wall(), ...(graceDays === undefined ? {} : { graceDays }) }
  const { principal, enrolment } = provenInGrace(socket, chain, identity, grace)
  const isOurs = (principal.role === 'node' || principal.role === 'relay') && principal.cluster === cluster
  if (!isOurs)
    throw new MeshError('FORBIDDEN', { reason: 'this cluster issues certificates to its own nodes and relays' })
  const options = { clock, enrolment }
  if (principal.role === 'node') {
    const record = store.nodes.get(principal.node)
    if (record === undefined) throw new MeshError('NODE_UNKNOWN', { node: nodeIdOf(principal) })
    refuseReplaced(record, enrolment)
    return remembered(store.nodes, principal.node, await issueNode(identity, csr, principal.node, options))
  }
  const record = store.relays.get(principal.relay)
  if (record === undefined) throw new MeshError('FORBIDDEN', { reason: 'it is not a relay of this cluster' })
  refuseReplaced(record, enrolment)
  return remembered(store.relays, principal.relay, await issueRelay(identity, csr, principal.relay, options))
}

interface Enrolment {
  token: string
  csr: string
  /** Of the node or relay that wants to join. */
  name: string
}

async function enrolNode({ token, csr, name }: Enrolment, parts: RouteParts) {
  const { identity, store, nodes, cordons, joinTokens, clock, onEnrolled } = parts
  const node = `${parts.name}/${name}`
  const { chain, enrolment, isNew } = await admit(
    joinTokens.node,
    { token, request: `${name}\n${csr}` },
    {
      refuseIfTaken: () => {
        if (nodes.isExpected(node)) throw nameTaken({ node }, 'a node of this name is connected')
        const justJoined = Math.abs(clock.wall() - (store.nodes.get(name)?.enrolledAt ?? 0)) < JUST_JOINED_MS
        if (justJoined) throw nameTaken({ node }, 'another machine has just joined under this name')
      },
      enrolmentOf: () => store.nodes.get(name)?.enrolment,
      sign: (_, enrolment) => issueNode(identity, csr, name, { clock, enrolment }),
      record: (_, enrolment) => {
        const cordon = cordons.of(node) // a machine that was installed anew stays as it was left
        store.nodes.put(name, {
          name,
          enrolledAt: clock.wall(),
          enrolment,
          ...(cordon === undefined ? {} : { cordon }),
        })
      },
    },
  )
  if (isNew) onEnrolled({ role: 'node', name, enrolment })
  return { ...remembered(store.nodes, name, chain), ca: identity.ca, node }
}

async function enrolRelay({ token, csr, name }: Enrolment, parts: RouteParts) {
  const { identity, store, relays, joinTokens, clock, onEnrolled } = parts
  const { chain, enrolment, isNew } = await admit(
    joinTokens.relay,
    { token, request: `${name}\n${csr}` },
    {
      refuseIfTaken: () => {
        if (relays.isLinked(name)) throw nameTaken({ relay: name }, 'a relay of this name is connected')
      },
      enrolmentOf: () => store.relays.get(name)?.enrolment,
      sign: (_, enrolment) => issueRelay(identity, csr, name, { clock, enrolment }),
      record: (_, enrolment) => relays.enrolled(name, enrolment),
    },
  )
  if (isNew) onEnrolled({ role: 'relay', name, enrolment })
  return { ...remembered(store.relays, name, chain), ca: identity.ca, relay: `${parts.name}/${name}` }
}

function nameTaken(who: { node: string } | { relay: string }, reason: string): MeshError {
  return new MeshError('TOKEN_REFUSED', { ...who, reason, remedy: 'Join under another name with --name NAME.' })
}
