import Type from 'typebox'
import {
  AssignmentOf,
  ChangeOf,
  Entry,
  Facts,
  InterestKeyText,
  Keys,
  many,
  Point,
  ReplacementWord,
  Report,
  ResumedOf,
  Seq,
  text,
  Vip,
} from '../schemas.ts'
import { BATCH, type LinkProtocol, NOTHING, request } from './protocol.ts'
import {
  Duplicate,
  NodeHello,
  NodeWelcome,
  Process,
  Relays,
  Renew,
  RenewNow,
  RevocationList,
  Revocations,
  TrustChanged,
  TrustOf,
  assignMany,
  exec,
  execClose,
  links,
  logs,
  logsClose,
  secrets,
  usage,
  volumes,
  withdraw,
  withdrawMany,
} from './both.ts'

/* Between a node, or a stand-alone relay, and its cluster. */

/** Node → cluster. */
export const nodeToCluster = {
  requests: {
    'node.hello': request(NodeHello, NodeWelcome),
    'interest.ask': request(
      Type.Object({ key: InterestKeyText }),
      Type.Object({ seq: Seq, entries: many(Entry, 1_000) }),
    ),
    'interest.vip': request(Type.Object({ vip: Vip }), Type.Object({ key: Type.Optional(InterestKeyText) })),
    'interest.resume': request(Point, ResumedOf),
    'certificate.renew': Renew,
    /** The response: what has a lease may run on, from when this was sent (worker/leases.ts). */
    'lease.renew': request(NOTHING, NOTHING),
    ...secrets,
  },
  notifications: {
    'node.facts': Type.Object({ facts: Facts }),
    reports: Type.Object({ reports: many(Report, BATCH) }),
    /** Another process of this node takes over the link, or (false) does not after all. */
    handover: Type.Object({ leaving: Type.Boolean() }),
    'interest.forget': Type.Object({ keys: Keys }),
    trust: TrustChanged,
  },
} as const satisfies LinkProtocol

/** Cluster → node. */
export const clusterToNode = {
  requests: {
    /** The response means that the worker has accepted; a refusal has its reason in `details.reason`. */
    assign: request(
      Type.Object({
        assignment: AssignmentOf,
        /** How it takes the place of an earlier run; `stop-first` when absent, as earlier versions do. */
        replacement: Type.Optional(ReplacementWord),
      }),
      NOTHING,
    ),
    'assign.many': assignMany,
    withdraw: request(
      Type.Object({
        ...withdraw.request.properties,
        /** Only this run, and only while it does not serve. */
        run: Type.Optional(Type.Object({ generation: Seq, epoch: Seq })),
      }),
      withdraw.response,
    ),
    'withdraw.many': withdrawMany,
    ...logs,
    ...usage,
    ...links,
    ...volumes,
    ...exec,
  },
  notifications: {
    changes: Type.Object({ epoch: text(64), changes: many(ChangeOf, 10_000) }),
    revocations: Revocations,
    renew: RenewNow,
    /** The complete list: it replaces the one before. */
    relays: Type.Object({ relays: Relays }),
    /** Services to take an interest in, so that the node measures the latency to them. */
    wish: Type.Object({ keys: many(InterestKeyText, 64) }),
    duplicate: Duplicate,
    'logs.close': logsClose,
    'exec.close': execClose,
  },
} as const satisfies LinkProtocol

/** Stand-alone relay → cluster. */
export const relayToCluster = {
  requests: {
    'relay.hello': request(
      Type.Object({
        url: Type.String({ pattern: '^wss://', maxLength: 500 }),
        version: text(64),
        process: Process,
        trust: TrustOf,
      }),
      Type.Object({ revocations: RevocationList }),
    ),
    'certificate.renew': Renew,
  },
  notifications: { trust: TrustChanged },
} as const satisfies LinkProtocol

/** Cluster → stand-alone relay. */
export const clusterToRelay = {
  requests: {},
  notifications: { revocations: Revocations, renew: RenewNow, duplicate: Duplicate },
} as const satisfies LinkProtocol
