import Type, { type Static, type TSchema } from 'typebox'
import type { ClusterSummary } from '../scheduling/candidate.ts'
import {
  AssignmentOf,
  CapacityOf,
  ChangeOf,
  Csr,
  Entry,
  Facts,
  InstanceIdText,
  InterestKeyText,
  Keys,
  many,
  NodeIdText,
  Pem,
  Point,
  Reach,
  Report,
  ResumedOf,
  Seq,
  text,
  Vip,
} from './schemas.ts'

/*
 * Everything that is said on control links, on one page. Lower tiers dial; both sides ask and tell.
 *
 *     node ──── toCluster ───▶ cluster ──── toRoot ───▶ root
 *          ◀─── toNode ──────          ◀─── toCluster ─
 *    relay ─── toCluster ───▶
 *          ◀─── toRelay ─────
 *
 * An `ask` has one answer, within its time; a notice has none.
 */

export interface Ask {
  ask: TSchema
  answer: TSchema
  withinMs: number
}

/** What one side may say. */
export interface LinkProtocol {
  requests: Readonly<Record<string, Ask>>
  notices: Readonly<Record<string, TSchema>>
}

export type AskName<L extends LinkProtocol> = keyof L['requests'] & string
export type NoticeName<L extends LinkProtocol> = keyof L['notices'] & string
export type AskBody<L extends LinkProtocol, N extends AskName<L>> = Static<L['requests'][N]['ask']>
export type AnswerBody<L extends LinkProtocol, N extends AskName<L>> = Static<L['requests'][N]['answer']>
export type NoticeBody<L extends LinkProtocol, N extends NoticeName<L>> = Static<L['notices'][N]>

const ask = <A extends TSchema, B extends TSchema>(asked: A, answer: B, withinMs = 5_000) => ({
  ask: asked,
  answer,
  withinMs,
})
const NOTHING = Type.Object({})
/** More instances than this are told in several messages. */
export const BATCH = 500
/** Relays that one cluster tells its nodes of. */
export const MAX_RELAYS = 16

/** For `logs.*`: the reader pulls, so a slow one holds nothing up; a stream nobody pulls ends by itself. */
const logs = {
  'logs.open': ask(
    Type.Object({
      instance: InstanceIdText,
      tail: Type.Integer({ minimum: 0, maximum: 100_000 }),
      follow: Type.Boolean(),
    }),
    Type.Object({ stream: text(128) }),
  ),
  'logs.next': ask(
    Type.Object({ stream: text(128) }),
    Type.Object({ text: text(1_048_576), done: Type.Boolean() }),
    10_000,
  ),
}
const logsClose = Type.Object({ stream: text(128) })

/** `ended`: there is nothing of it any more. Otherwise it drains, and a report says when it has ended. */
const withdraw = ask(Type.Object({ instance: InstanceIdText }), Type.Object({ ended: Type.Boolean() }))

/** Where nodes may meet, beside their cluster: `wss://host:port/relay`. */
const Relays = many(text(500), MAX_RELAYS)
const NodeHello = Type.Object({ facts: Facts, reports: many(Report, 10_000) })
const NodeWelcome = Type.Object({
  /** What the node should run; it ends anything else, and is assigned what it lacks. */
  instances: many(InstanceIdText, 10_000),
  revoked: many(NodeIdText, 100_000),
  relays: Relays,
})
const Revoked = Type.Object({ nodes: many(NodeIdText, 100_000) })
const Renew = ask(Type.Object({ csr: Csr }), Type.Object({ chain: Pem }))

/** What a node says to its cluster. */
export const nodeToCluster = {
  requests: {
    'node.hello': ask(NodeHello, NodeWelcome),
    'interest.ask': ask(Type.Object({ key: InterestKeyText }), Type.Object({ seq: Seq, entries: many(Entry, 1_000) })),
    'interest.vip': ask(Type.Object({ vip: Vip }), Type.Object({ key: Type.Optional(InterestKeyText) })),
    'interest.resume': ask(Point, ResumedOf),
    'certificate.renew': Renew,
  },
  notices: {
    'node.facts': Type.Object({ facts: Facts }),
    reports: Type.Object({ reports: many(Report, BATCH) }),
    'interest.forget': Type.Object({ keys: Keys }),
  },
} as const satisfies LinkProtocol

/** What a cluster says to its nodes. */
export const clusterToNode = {
  requests: {
    /** Answered when the worker has accepted; refused with the reason as `details.reason`. */
    assign: ask(Type.Object({ assignment: AssignmentOf }), NOTHING),
    withdraw,
    ...logs,
  },
  notices: {
    changes: Type.Object({ epoch: text(64), changes: many(ChangeOf, 10_000) }),
    revoked: Revoked,
    /** All there are now. */
    relays: Type.Object({ relays: Relays }),
    /** To be interested in: so it measures how far away these are. */
    wish: Type.Object({ keys: many(InterestKeyText, 64) }),
    'logs.close': logsClose,
  },
} as const satisfies LinkProtocol

/** What a stand-alone relay says to its cluster. */
export const relayToCluster = {
  requests: {
    'relay.hello': ask(
      Type.Object({ url: Type.String({ pattern: '^wss://', maxLength: 500 }), version: text(64) }),
      Type.Object({ revoked: many(NodeIdText, 100_000) }),
    ),
    'certificate.renew': Renew,
  },
  notices: {},
} as const satisfies LinkProtocol

/** What a cluster says to its relays. */
export const clusterToRelay = { requests: {}, notices: { revoked: Revoked } } as const satisfies LinkProtocol

/** What a cluster tells of one instance: the worker's report, and where the instance is. */
const Standing = Type.Object({ report: Report, node: Type.Optional(Reach) })
export type Standing = Static<typeof Standing>

const Place = Type.Object({ lat: Type.Number(), lon: Type.Number() })
const Summary = Type.Unsafe<ClusterSummary>(
  Type.Object({
    cluster: text(63),
    nodes: Seq,
    total: CapacityOf,
    free: CapacityOf,
    largestFree: CapacityOf,
    runtimes: many(text(64), 1_000),
    arch: many(text(32), 100),
    areas: many(text(64), 10_000),
    locations: many(Place, 64),
    addons: many(text(64), 10_000),
    portsTaken: many(text(16), 10_000),
    instances: Seq,
  }),
)

const Known = Type.Object({ key: InterestKeyText, entries: many(Entry, 1_000) })
export type Known = Static<typeof Known>

/** A node as `get nodes` shows it. */
const NodeRow = Type.Object({
  facts: Type.Optional(Facts),
  id: NodeIdText,
  condition: Type.Enum(['alive', 'lost']),
  free: Type.Optional(CapacityOf),
  instances: Seq,
  since: Seq,
})
export type NodeRow = Static<typeof NodeRow>

/** A relay as `get relays` shows it. */
const RelayRow = Type.Object({
  /** Of a stand-alone one `cluster/relay`; of the one in a cluster's door the cluster's name. */
  id: text(127),
  kind: Type.Enum(['cluster', 'stand-alone']),
  /** Where nodes dial; absent until it has said so. */
  url: Type.Optional(text(500)),
  condition: Type.Enum(['alive', 'away']),
  version: Type.Optional(text(64)),
  /** Nodes that listen there now. */
  nodes: Seq,
})
export type RelayRow = Static<typeof RelayRow>

/** What a cluster says to the root. */
export const clusterToRoot = {
  requests: {
    'cluster.hello': ask(
      Type.Object({
        summary: Summary,
        url: text(500),
        version: text(64),
        instances: many(Type.Object({ instance: InstanceIdText, generation: Seq }), 100_000),
        keys: many(InterestKeyText, 100_000),
      }),
      Type.Object({
        /** Work that went elsewhere, or ended, while the link was down. */
        surplus: many(InstanceIdText, 100_000),
        revoked: many(NodeIdText, 100_000),
      }),
      10_000,
    ),
    'interest.ask': ask(Type.Object({ key: InterestKeyText }), Type.Object({ entries: many(Entry, 1_000) }), 2_000),
    'interest.vip': ask(Type.Object({ vip: Vip }), Type.Object({ key: Type.Optional(InterestKeyText) }), 2_000),
    'certificate.renew': Renew,
  },
  notices: {
    summary: Type.Object({ summary: Summary }),
    standings: Type.Object({ standings: many(Standing, BATCH) }),
    /** The cluster cannot run it any more: the root looks elsewhere. */
    handback: Type.Object({ instance: InstanceIdText, reason: text(2_000) }),
    'interest.forget': Type.Object({ keys: Keys }),
  },
} as const satisfies LinkProtocol

/** What the root says to a cluster. */
export const rootToCluster = {
  requests: {
    /** Answered when a worker took it; otherwise refused with UNPLACEABLE and counted reasons. */
    delegate: ask(Type.Object({ assignment: AssignmentOf }), NOTHING, 15_000),
    withdraw,
    'nodes.list': ask(
      Type.Object({ after: text(127) }),
      Type.Object({ nodes: many(NodeRow, 1_000), more: Type.Boolean() }),
    ),
    'relays.list': ask(NOTHING, Type.Object({ relays: many(RelayRow, 1_000) })),
    'node.revoke': ask(Type.Object({ node: text(63) }), NOTHING),
    'token.mint': ask(
      Type.Object({
        role: Type.Enum(['node', 'relay']),
        ttlSeconds: Type.Integer({ minimum: 1, maximum: 31_536_000 }),
      }),
      Type.Object({ token: text(4_096), expiresAt: Seq }),
    ),
    ...logs,
  },
  notices: {
    /** All there is under each key: what is not there is gone. */
    known: Type.Object({ known: many(Known, BATCH) }),
    revoked: Revoked,
    'logs.close': logsClose,
  },
} as const satisfies LinkProtocol
