import Type, { type TSchema } from 'typebox'
import { POLICIES } from '../../core/model/choice.ts'
import { AXES, FARTHEST_MS } from '../../core/model/coordinate.ts'
import type { Change, ResumePoint, Resumed, ServiceEntry } from '../../core/model/change.ts'
import { LABEL_OPERATORS } from '../../core/model/label-rule.ts'
import { INSTANCE_STATES, type Instance } from '../../core/model/instance.ts'
import type { NodeReach } from '../../core/model/node.ts'
import type { Service } from '../../core/model/service.ts'
import {
  CONSTRAINT_TYPES,
  MOVERS,
  REPLACEMENTS,
  TOPOLOGIES,
  type Assignment,
  type Capacity,
  type InstanceReport,
  type NodeFacts,
  type Replacement,
  type ServiceSpec,
  type SuccessorReport,
} from '../spec.ts'

/*
 * The model's types as a peer may send them, with every string and list bounded. Unknown keys are ignored, so that tiers of
 * different versions understand each other.
 */

/** A schema whose static type is a type of the model. */
const as = <T>(schema: TSchema) => Type.Unsafe<T>(schema)

export const text = (maxLength: number) => Type.String({ maxLength })
export const many = <S extends TSchema>(items: S, maxItems: number) => Type.Array(items, { maxItems })
const whole = (maximum = Number.MAX_SAFE_INTEGER) => Type.Integer({ minimum: 0, maximum })
export const Amount = Type.Number({ minimum: 0, maximum: 1e15 })
const amount = () => Amount

const LABEL = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?'
export const Label = Type.String({ pattern: `^${LABEL}$` })
export const LabelOrAll = Type.String({ pattern: `^(\\*|${LABEL})$` })
export const ServiceIdText = Type.String({ pattern: `^${LABEL}(\\.${LABEL}){3}$` })
export const InstanceIdText = Type.String({ pattern: `^${LABEL}(\\.${LABEL}){3}\\.\\d{1,6}$` })
/** A path within an instance: without `.` and `..` it stays in the folder that the agent, often root, puts the files of a run in. */
export const InnerPath = Type.String({ maxLength: 1_024, pattern: '^(/(?!\\.{1,2}(/|$))[^/\\0]+)+$' })
export const InterestKeyText = Type.String({ pattern: `^${LABEL}(\\.${LABEL}){2}$` })
/** `app.namespace.name` */
export const VolumeText = Type.String({ pattern: `^${LABEL}(\\.${LABEL}){2}$` })
export const NodeIdText = Type.String({ pattern: `^${LABEL}/${LABEL}$` })
export const Seq = whole()
export const Vip = whole(0xfffff)
export const Pem = text(32_768)
export const Csr = text(8_192)

/** Of one instance: its successor’s node, and those where earlier runs drain. */
export const MOST_ALSO = 16

const Protocol = Type.Enum(['tcp', 'udp'])
const PortNumber = Type.Integer({ minimum: 1, maximum: 65_535 })
const ChoiceKey = Type.String({ pattern: `^(any|\\d{1,6})\\.(${POLICIES.join('|')})$` })
const State = Type.Enum([...INSTANCE_STATES])
const Location = Type.Object({ lat: Type.Number(), lon: Type.Number() })

export const CoordinateOf = Type.Object({
  at: Type.Array(Type.Number({ minimum: -FARTHEST_MS, maximum: FARTHEST_MS }), { minItems: AXES, maxItems: AXES }),
  height: Type.Number({ minimum: 0, maximum: FARTHEST_MS }),
  error: Type.Number({ minimum: 0, maximum: 1 }),
})

export const Reach = as<NodeReach>(
  Type.Object({
    id: NodeIdText,
    addresses: many(text(300), 64),
    relays: many(text(500), 16),
    coordinate: Type.Optional(CoordinateOf),
    area: Type.Optional(text(64)),
  }),
)

export const InstanceOf = as<Instance>(
  Type.Object({
    id: InstanceIdText,
    service: ServiceIdText,
    ordinal: whole(),
    node: NodeIdText,
    state: State,
    also: Type.Optional(many(NodeIdText, MOST_ALSO)),
  }),
)

export const ServiceOf = as<Service>(
  Type.Object({
    id: ServiceIdText,
    app: Label,
    appNamespace: Label,
    name: Label,
    namespace: Label,
    ports: many(Type.Object({ port: PortNumber, protocol: Protocol, name: Type.Optional(text(63)) }), 64),
    allow: many(text(300), 256),
    isOwned: Type.Optional(Type.Literal(true)),
    paths: Type.Optional(text(64)),
    vips: Type.Record(ChoiceKey, Vip),
    requested: Type.Optional(many(ChoiceKey, 20_000)),
  }),
)

export const Entry = as<ServiceEntry>(
  Type.Object({ version: Seq, service: ServiceOf, instances: many(InstanceOf, 10_000), nodes: many(Reach, 10_000) }),
)

export const ChangeOf = as<Change>(
  Type.Union([
    Type.Object({ seq: Seq, kind: Type.Literal('service'), key: InterestKeyText, entry: Entry }),
    Type.Object({ seq: Seq, kind: Type.Literal('gone'), key: InterestKeyText, service: ServiceIdText }),
  ]),
)

export const Keys = many(InterestKeyText, 10_000)
export const Point = as<ResumePoint>(Type.Object({ epoch: text(64), seq: Seq, keys: Keys }))
export const ResumedOf = as<Resumed>(
  Type.Object({ epoch: text(64), seq: Seq, full: Type.Boolean(), changes: many(ChangeOf, 10_000) }),
)

export const CapacityOf = as<Capacity>(
  Type.Object({
    memoryMb: amount(),
    vcpus: amount(),
    vgpus: amount(),
    vtpus: amount(),
    storageMb: amount(),
    bandwidthInKbit: Type.Optional(amount()),
    bandwidthOutKbit: Type.Optional(amount()),
  }),
)

export const Facts = as<NodeFacts>(
  Type.Object({
    id: NodeIdText,
    capacity: CapacityOf,
    runtimes: many(text(64), 32),
    arch: text(32),
    addresses: many(text(300), 64),
    relays: Type.Optional(many(text(500), 16)),
    coordinate: Type.Optional(CoordinateOf),
    labels: Type.Record(text(64), text(256), { maxProperties: 64 }),
    location: Type.Optional(Location),
    area: Type.Optional(text(64)),
    costPerHour: Type.Optional(amount()),
    version: text(64),
  }),
)

const Successor = {
  generation: Seq,
  epoch: Type.Optional(Seq),
  state: State,
  detail: Type.Optional(text(2_000)),
  restarts: whole(),
}
/** As the root is told of it: with its node, where that is another one. */
export const LocatedSuccessor = Type.Object({ ...Successor, node: Type.Optional(NodeIdText) })
/** Longer than any wait between two starts. */
export const MAX_RETRY_MS = 86_400_000

export const Report = as<InstanceReport>(
  Type.Object({
    instance: InstanceIdText,
    generation: Seq,
    revision: Type.Optional(Seq),
    state: State,
    detail: Type.Optional(text(2_000)),
    restarts: whole(),
    retryInMs: Type.Optional(whole(MAX_RETRY_MS)),
    pid: Type.Optional(whole()),
    epoch: Type.Optional(Seq),
    successor: Type.Optional(as<SuccessorReport>(Type.Object(Successor))),
  }),
)

const NearWishes = many(
  Type.Object({ type: Type.Literal('latency'), service: text(300), threshold: Type.Number() }),
  16,
)

const Constraint = Type.Object({
  type: Type.Enum([...CONSTRAINT_TYPES]),
  cluster: Type.Optional(text(63)),
  nodes: Type.Optional(many(text(127), 256)),
  allowed: Type.Optional(many(text(63), 256)),
  needs: Type.Optional(many(text(64), 64)),
  match: Type.Optional(
    many(Type.Object({ key: text(64), operator: Type.Enum([...LABEL_OPERATORS]), values: many(text(256), 64) }), 64),
  ),
  over: Type.Optional(Type.Enum([...TOPOLOGIES])),
  maxSkew: Type.Optional(whole(1_000)),
  area: Type.Optional(text(64)),
  location: Type.Optional(Location),
  service: Type.Optional(text(300)),
  threshold: Type.Optional(Type.Number()),
  rigidness: Type.Optional(Type.Number()),
  convergenceSeconds: Type.Optional(Type.Number()),
})

export const Spec = as<ServiceSpec>(
  Type.Object({
    id: ServiceIdText,
    app: Label,
    appNamespace: Label,
    name: Label,
    namespace: Label,
    runtime: text(64),
    code: text(4_096),
    cmd: many(text(65_536), 1_024),
    environment: many(text(65_536), 1_024),
    workdir: Type.Optional(text(4_096)),
    ports: many(
      Type.Object({
        port: PortNumber,
        target: PortNumber,
        protocol: Protocol,
        name: Type.Optional(text(63)),
        proxyProtocol: Type.Optional(Type.Literal('v2')),
        hostPort: Type.Optional(PortNumber),
      }),
      64,
    ),
    fixedPorts: Type.Boolean(),
    proxy: Type.Optional(Type.Enum(['socks', 'none'])),
    openFiles: Type.Optional(whole(1_048_576)),
    secrets: Type.Optional(many(Label, 16)),
    isolation: Type.Optional(Type.Literal('none')),
    files: Type.Optional(
      many(
        Type.Object({
          path: InnerPath,
          content: Type.Optional(text(262_144)),
          secret: Type.Optional(Label),
        }),
        16,
      ),
    ),
    volumes: Type.Optional(
      many(
        Type.Object({
          name: Label,
          path: InnerPath,
          readOnly: Type.Optional(Type.Literal(true)),
          hostPath: Type.Optional(text(4_096)),
        }),
        16,
      ),
    ),
    registrySecret: Type.Optional(Label),
    egress: Type.Optional(Type.Literal('none')),
    egressTo: Type.Optional(many(text(300), 64)),
    memoryMb: amount(),
    vcpus: amount(),
    vgpus: amount(),
    vtpus: amount(),
    storageMb: amount(),
    bandwidthInKbit: amount(),
    bandwidthOutKbit: amount(),
    arch: many(text(32), 16),
    replicas: whole(10_000),
    oneShot: Type.Boolean(),
    job: Type.Optional(
      Type.Object({
        retries: Type.Optional(whole(1_000)),
        backoffSeconds: Type.Optional(amount()),
        deadlineSeconds: Type.Optional(amount()),
      }),
    ),
    schedule: Type.Optional(
      Type.Object({
        cron: text(256),
        concurrency: Type.Optional(Type.Enum(['replace', 'allow'])),
        startWithinSeconds: Type.Optional(amount()),
      }),
    ),
    strategy: text(64),
    allow: many(text(300), 256),
    paths: Type.Optional(text(64)),
    check: Type.Optional(
      Type.Object({
        kind: Type.Enum(['tcp', 'http']),
        port: PortNumber,
        path: text(2_048),
        intervalMs: amount(),
        timeoutMs: amount(),
      }),
    ),
    liveness: Type.Optional(
      Type.Object({
        kind: Type.Enum(['tcp', 'http']),
        port: PortNumber,
        path: text(2_048),
        intervalMs: amount(),
        timeoutMs: amount(),
        initialDelayMs: amount(),
        failures: whole(1_000),
      }),
    ),
    drainSeconds: amount(),
    leaseSeconds: Type.Optional(amount()),
    update: Type.Optional(
      Type.Object({
        maxSurge: Type.Optional(whole(10_000)),
        maxSurgePercent: Type.Optional(whole(1_000)),
        maxUnavailable: Type.Optional(whole(10_000)),
        maxUnavailablePercent: Type.Optional(whole(100)),
        progressSeconds: Type.Optional(amount()),
        autoRollback: Type.Optional(Type.Literal(true)),
      }),
    ),
    constraints: many(Constraint, 64),
    prefersNear: Type.Optional(NearWishes),
    connectivity: many(text(300), 256),
    startsAfterConnectivity: Type.Optional(Type.Literal(true)),
    addresses: Type.Record(ChoiceKey, text(64)),
  }),
)

export const AssignmentOf = as<Assignment>(
  Type.Object({
    instance: InstanceIdText,
    ordinal: whole(),
    spec: Spec,
    generation: Seq,
    revision: Type.Optional(Seq),
    epoch: Type.Optional(Seq),
    asked: Type.Optional(Type.Object({ constraints: many(Constraint, 64), prefersNear: NearWishes })),
  }),
)

/** Who wants an instance to move, and why. */
export const Cause = Type.Object({ by: Type.Enum([...MOVERS]), why: text(500) })

export const ReplacementWord = as<Replacement>(Type.Enum([...REPLACEMENTS]))

/** What a tier says of one candidate for `hedgerow explain` (scheduling/explain.ts). */
const JudgedOf = Type.Object({
  id: text(127),
  refusals: Type.Record(text(64), text(500), { maxProperties: 64 }),
  score: Type.Optional(many(Type.Number(), 64)),
})

export const ExplanationOf = Type.Object({
  strategy: text(64),
  filters: many(text(64), 64),
  terms: many(text(100), 64),
  candidates: Seq,
  fit: Seq,
  judged: many(JudgedOf, 1_000),
  chosen: Type.Optional(text(127)),
  why: Type.Optional(text(2_000)),
  /** When it was decided; absent: what would be decided now. Milliseconds since 1970. */
  at: Type.Optional(Seq),
})
