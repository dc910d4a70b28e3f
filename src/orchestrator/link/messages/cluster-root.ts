import Type, { type Static } from 'typebox'
import { MOST_CIRCLES, MOST_REGIONS } from '../../scheduling/cover.ts'
import { MOST_LABEL_VALUES, MOST_LABELS, type ClusterSummary } from '../../scheduling/summary.ts'
import {
  Amount,
  AssignmentOf,
  CapacityOf,
  Cause,
  CoordinateOf,
  Entry,
  ExplanationOf,
  Facts,
  InstanceIdText,
  InterestKeyText,
  Keys,
  LocatedSuccessor,
  MOST_ALSO,
  many,
  NodeIdText,
  Reach,
  Report,
  Seq,
  Spec,
  text,
  Vip,
} from '../schemas.ts'
import { BATCH, type LinkProtocol, MAX_REASON, NOTHING, request } from './protocol.ts'
import {
  Duplicate,
  Process,
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

/* Between a cluster and the root. */

/** A worker's report on one instance, and the node it runs on. */
const LocatedReport = Type.Object({
  report: Report,
  node: Type.Optional(Reach),
  /** The node is lost, and no other node of the cluster can take the instance: another cluster may. */
  noOtherNode: Type.Optional(Type.Boolean()),
  /** A newer run that is to take its place. */
  successor: Type.Optional(LocatedSuccessor),
  /** Other nodes of its cluster with a run of it, which may call. */
  also: Type.Optional(many(NodeIdText, MOST_ALSO)),
  /** Which constraint it does not keep to, and what is done about it; for people. */
  violation: Type.Optional(text(500)),
  /** Who wanted it to move to its node, and why. */
  cause: Type.Optional(Cause),
})
export type LocatedReport = Static<typeof LocatedReport>

const Circle = Type.Object({ lat: Type.Number(), lon: Type.Number(), km: Type.Optional(Amount) })
const Region = Type.Object({ at: CoordinateOf.properties.at, height: Amount, ms: Amount })
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
    locations: many(Circle, MOST_CIRCLES),
    addons: many(text(64), 10_000),
    portsTaken: many(text(16), 10_000),
    instances: Seq,
    labels: Type.Optional(Type.Record(text(64), many(text(256), MOST_LABEL_VALUES), { maxProperties: MOST_LABELS })),
    costPerHour: Type.Optional(Amount),
    regions: Type.Optional(many(Region, MOST_REGIONS)),
    measured: Type.Optional(Seq),
  }),
)

const KeyEntries = Type.Object({ key: InterestKeyText, entries: many(Entry, 1_000) })
export type KeyEntries = Static<typeof KeyEntries>

/** A node as `get nodes` shows it. */
const NodeRow = Type.Object({
  facts: Type.Optional(Facts),
  id: NodeIdText,
  condition: Type.Enum(['alive', 'lost']),
  free: Type.Optional(CapacityOf),
  instances: Seq,
  since: Seq,
  /** When a second process with the identity of this node was refused last, milliseconds since 1970. */
  duplicateAt: Type.Optional(Seq),
  /** When the newest certificate that the cluster has issued to it ends, milliseconds since 1970. */
  certificateUntil: Type.Optional(Seq),
  trust: TrustOf,
  /** How long ago its last message came; it sends one every second. */
  silentMs: Type.Optional(Seq),
  /** How often its link went down within the last quarter of an hour. */
  linksLost: Type.Optional(Seq),
  /** For how long it is still given nothing that another node takes, because its link went down so often. */
  dampedMs: Type.Optional(Seq),
  /** Somebody wants it to take nothing new; since when, milliseconds since 1970. */
  cordon: Type.Optional(
    Type.Object({
      at: Seq,
      reason: Type.Optional(text(MAX_REASON)),
      /** What it runs is to move away. */
      drain: Type.Optional(Type.Object({ isForced: Type.Optional(Type.Literal(true)) })),
    }),
  ),
  /** Lost, and may still run these, which have been placed elsewhere. */
  mayStillRun: Type.Optional(many(InstanceIdText, 1_000)),
})
export type NodeRow = Static<typeof NodeRow>

/** What is left on a node that drains. */
export const DrainStatusOf = Type.Object({
  isDraining: Type.Boolean(),
  left: many(
    Type.Object({
      instance: InstanceIdText,
      /** `stays`: it does not move by itself. */
      state: Type.Enum(['moving', 'waiting', 'stays']),
      to: Type.Optional(NodeIdText),
      why: Type.Optional(text(2_000)),
    }),
    1_000,
  ),
  /** Runs that finish their flows. */
  leaving: Seq,
})
export type DrainStatus = Static<typeof DrainStatusOf>

/** A relay as `get relays` shows it. */
const RelayRow = Type.Object({
  /** `cluster/relay` for a stand-alone relay, the cluster's name for the relay inside a cluster. */
  id: text(127),
  kind: Type.Enum(['cluster', 'stand-alone']),
  /** Where nodes dial it; absent until the relay has reported it. */
  url: Type.Optional(text(500)),
  condition: Type.Enum(['alive', 'away']),
  version: Type.Optional(text(64)),
  /** How many nodes listen at it now. */
  nodes: Seq,
  /** Of a stand-alone relay: when the newest certificate that the cluster has issued to it ends, milliseconds since 1970. */
  certificateUntil: Type.Optional(Seq),
  trust: TrustOf,
})
export type RelayRow = Static<typeof RelayRow>

/** Which certificates a node or relay holds: all those of one enrolment. */
const Enrolment = Type.Object({
  role: Type.Enum(['node', 'relay']),
  name: text(63),
  enrolment: Type.String({ pattern: '^[0-9a-f]{16}$' }),
})
export type Enrolment = Static<typeof Enrolment>

/** Something that happened in a cluster and that reports of instances do not show; words that the root does not know are left out. */
const ClusterEvent = Type.Object({
  what: text(32),
  node: NodeIdText,
  instance: Type.Optional(InstanceIdText),
  why: Type.Optional(text(500)),
  /** How long ago: clocks differ. */
  agoMs: Seq,
})
export type ClusterEvent = Static<typeof ClusterEvent>

/** Cluster → root. */
export const clusterToRoot = {
  requests: {
    'cluster.hello': request(
      Type.Object({
        summary: Summary,
        url: text(500),
        version: text(64),
        process: Process,
        instances: many(Type.Object({ instance: InstanceIdText, generation: Seq }), 100_000),
        keys: many(InterestKeyText, 100_000),
        /** Every node and relay of the cluster: the root can revoke them also while the cluster is away. */
        enrolments: many(Enrolment, 100_000),
        trust: TrustOf,
      }),
      Type.Object({
        /** Instances that were moved elsewhere or deleted while the link was down: the cluster ends them. */
        surplus: many(InstanceIdText, 100_000),
        /** Of these, those that run elsewhere: they do not drain. */
        moved: Type.Optional(many(InstanceIdText, 100_000)),
        revocations: RevocationList,
      }),
      10_000,
    ),
    'interest.ask': request(Type.Object({ key: InterestKeyText }), Type.Object({ entries: many(Entry, 1_000) }), 2_000),
    'interest.vip': request(Type.Object({ vip: Vip }), Type.Object({ key: Type.Optional(InterestKeyText) }), 2_000),
    'certificate.renew': Renew,
    ...secrets,
    /** It runs here and is to go elsewhere, and no other node here takes it. The response: another cluster has accepted it. */
    'instance.relocate': request(
      Type.Object({
        instance: InstanceIdText,
        /** Because of a constraint that it does not keep to: that is damped. */
        isViolation: Type.Optional(Type.Boolean()),
        cause: Type.Optional(Cause),
      }),
      Type.Object({ cluster: text(63), node: Type.Optional(NodeIdText) }),
      20_000,
    ),
  },
  notifications: {
    summary: Type.Object({ summary: Summary }),
    standings: Type.Object({ standings: many(LocatedReport, BATCH) }),
    /** The cluster can no longer run the instance: the root places it elsewhere. */
    handback: Type.Object({ instance: InstanceIdText, reason: text(2_000) }),
    'interest.forget': Type.Object({ keys: Keys }),
    events: Type.Object({ events: many(ClusterEvent, BATCH) }),
    /** A node or relay has joined. */
    enrolled: Type.Object({ enrolment: Enrolment }),
    trust: TrustChanged,
  },
} as const satisfies LinkProtocol

/** Root → cluster. */
export const rootToCluster = {
  requests: {
    /** The response means that a worker has accepted; a refusal is UNPLACEABLE with counted reasons. */
    delegate: request(
      Type.Object({
        assignment: AssignmentOf,
        /** A running instance takes it over where it is, or nothing changes. */
        keepsPlace: Type.Optional(Type.Boolean()),
        /** One that is new there: to this node, or to none. */
        to: Type.Optional(NodeIdText),
        /**
         * How a newer generation takes the place of the one that is there: beside it or not at all, beside it where that is possible, or
         * (absent, as earlier versions do) after it was stopped.
         */
        replacement: Type.Optional(Type.Enum(['beside', 'beside-if-possible'])),
      }),
      Type.Object({
        /** It was running, and has gone to another node. */
        moved: Type.Optional(Type.Boolean()),
        /** Why it is stopped first, where another one cannot start beside it. */
        gap: Type.Optional(text(2_000)),
        /** Of one that is new there: the node that has accepted it. */
        node: Type.Optional(NodeIdText),
      }),
      15_000,
    ),
    'delegate.many': assignMany,
    withdraw,
    'withdraw.many': withdrawMany,
    /** How many nodes would not take an instance of the service, for which reason. */
    'placement.explain': request(
      Type.Object({ spec: Spec }),
      Type.Object({
        nodes: Seq,
        reasons: many(Type.Object({ reason: text(500), nodes: Seq }), 1_000),
        /** The node that could take it if it need not be so near, and how far beyond what is allowed it is: 1 is exactly there. */
        nearest: Type.Optional(Type.Object({ id: text(127), what: text(500), excess: Amount })),
      }),
      2_000,
    ),
    /** Where so many more instances of the service would go now, and why no more of them. Nothing is changed. */
    'placement.preview': request(
      Type.Object({ spec: Spec, instances: Type.Integer({ minimum: 1, maximum: 1_000 }) }),
      Type.Object({ nodes: many(NodeIdText, 1_000), reason: Type.Optional(text(2_000)) }),
      2_000,
    ),
    /** The decision that placed the instance here, or (also when there is none) what would be decided now, with all candidates. */
    'placement.judge': request(
      Type.Object({
        spec: Spec,
        instance: Type.Optional(InstanceIdText),
        /** Not what was decided, but what would be now. */
        anew: Type.Boolean(),
        most: Type.Integer({ minimum: 1, maximum: 1_000 }),
      }),
      ExplanationOf,
      5_000,
    ),
    'nodes.list': request(
      Type.Object({ after: text(127) }),
      Type.Object({ nodes: many(NodeRow, 1_000), more: Type.Boolean() }),
    ),
    /** It takes nothing new. `changed` is false when it was cordoned already. */
    'node.cordon': request(
      Type.Object({ node: NodeIdText, reason: Type.Optional(text(MAX_REASON)) }),
      Type.Object({ changed: Type.Boolean() }),
    ),
    'node.uncordon': request(Type.Object({ node: NodeIdText }), Type.Object({ changed: Type.Boolean() })),
    /** What runs there moves away; the node is cordoned. Once more: what could not move is tried again. */
    'node.drain': request(
      Type.Object({ node: NodeIdText, isForced: Type.Boolean(), reason: Type.Optional(text(MAX_REASON)) }),
      DrainStatusOf,
    ),
    'node.drained': request(Type.Object({ node: NodeIdText }), DrainStatusOf),
    /** Another run takes the place of this one: on the same node, on `to`, or on any other. The response: a node has accepted it. */
    'instance.replace': request(
      Type.Object({
        instance: InstanceIdText,
        to: Type.Optional(NodeIdText),
        elsewhere: Type.Optional(Type.Boolean()),
        cause: Type.Optional(Cause),
      }),
      Type.Object({ node: NodeIdText, epoch: Seq, gap: Type.Optional(text(2_000)) }),
      15_000,
    ),
    'relays.list': request(NOTHING, Type.Object({ relays: many(RelayRow, 1_000) })),
    /** Which of these services some node follows. */
    'interest.used': request(
      Type.Object({ keys: many(InterestKeyText, 1_000) }),
      Type.Object({ used: many(InterestKeyText, 1_000) }),
      2_000,
    ),
    'token.mint': request(
      Type.Object({
        role: Type.Enum(['node', 'relay']),
        ttlSeconds: Type.Integer({ minimum: 1, maximum: 31_536_000 }),
      }),
      Type.Object({ token: text(4_096), expiresAt: Seq }),
    ),
    ...logs,
    ...usage,
    ...links,
    ...volumes,
    ...exec,
  },
  notifications: {
    /** The complete entries of each key: a service that is not among them is gone. */
    known: Type.Object({ known: many(KeyEntries, BATCH) }),
    revocations: Revocations,
    renew: RenewNow,
    duplicate: Duplicate,
    'logs.close': logsClose,
    'exec.close': execClose,
  },
} as const satisfies LinkProtocol
