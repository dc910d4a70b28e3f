import Type, { type Static } from 'typebox'
import { MAX_LIST_CHARS } from '../../../core/identity/revocation-list.ts'
import { RULED_PATHS } from '../../../core/model/path-rule.ts'
import {
  Amount,
  AssignmentOf,
  Csr,
  Facts,
  InstanceIdText,
  Label,
  many,
  NodeIdText,
  Pem,
  Report,
  Seq,
  text,
  VolumeText,
} from '../schemas.ts'
import { BATCH, MAX_RELAYS, NOTHING, request } from './protocol.ts'

/* What the links of both tiers carry: node ↔ cluster and cluster ↔ root. */

/** The reader of a log pulls, so that a slow one holds nothing up; a stream that is no longer pulled ends by itself. */
export const logs = {
  'logs.open': request(
    Type.Object({
      instance: InstanceIdText,
      tail: Type.Integer({ minimum: 0, maximum: 100_000 }),
      follow: Type.Boolean(),
      /** Lines from then on only, milliseconds since 1970. */
      since: Type.Optional(Seq),
    }),
    Type.Object({ stream: text(128) }),
  ),
  'logs.next': request(
    Type.Object({ stream: text(128) }),
    Type.Object({ text: text(1_048_576), done: Type.Boolean() }),
    10_000,
  ),
}
export const logsClose = Type.Object({ stream: text(128) })

/** The output of one answer, and what one request may bring. */
export const MAX_EXEC_BYTES = 512 * 1024
const Base64 = text(Math.ceil(MAX_EXEC_BYTES / 3) * 4 + 4)

/** A command in an instance: who started it pulls what it prints, and brings what it reads. One that is no longer pulled is ended. */
export const exec = {
  'exec.open': request(
    Type.Object({ instance: InstanceIdText, cmd: Type.Array(text(65_536), { minItems: 1, maxItems: 1_024 }) }),
    Type.Object({ stream: text(128) }),
    10_000,
  ),
  'exec.read': request(
    Type.Object({ stream: text(128) }),
    Type.Object({
      printed: many(Type.Object({ to: Type.Enum(['stdout', 'stderr']), data: Base64 }), 10_000),
      /** It has ended, and this was all. */
      exitCode: Type.Optional(Type.Integer({ minimum: 0, maximum: 255 })),
    }),
    10_000,
  ),
  /** `taken` is false while it does not read what it has. */
  'exec.write': request(
    Type.Object({ stream: text(128), data: Base64, isLast: Type.Optional(Type.Boolean()) }),
    Type.Object({ taken: Type.Boolean() }),
    10_000,
  ),
}
export const execClose = Type.Object({ stream: text(128) })

/** What an instance uses now (worker/usage.ts). */
const UsageOf = Type.Object({
  instance: InstanceIdText,
  cpu: Amount,
  memoryMb: Amount,
  memoryLimitMb: Type.Optional(Amount),
  vcpuLimit: Type.Optional(Amount),
  throttled: Type.Number({ minimum: 0, maximum: 1 }),
  oomKills: Seq,
})
export type UsageRow = Static<typeof UsageOf>
export const usage = {
  /** Instances of which nothing can be measured are left out. */
  'usage.list': request(NOTHING, Type.Object({ usage: many(UsageOf, 100_000) }), 3_000),
}

/** Of one node: those that carried most. Of one cluster, and of the mesh. */
export const MOST_LINKS_OF_NODE = 32
export const MOST_LINKS = 20_000

/** How `node` reaches `peer` now; bytes as `node` counts them, since the session began. */
const LinkOf = Type.Object({
  node: NodeIdText,
  peer: NodeIdText,
  path: Type.Enum([...RULED_PATHS]),
  relay: Type.Optional(text(500)),
  rttMs: Type.Optional(Amount),
  bytesIn: Amount,
  bytesOut: Amount,
})
export type LinkOfNode = Static<typeof LinkOf>
export const links = {
  /** Of the nodes that answer in time; the links that carried most, when there are more. */
  'links.list': request(NOTHING, Type.Object({ links: many(LinkOf, MOST_LINKS) }), 3_000),
}

const VolumeRuntime = Type.Enum(['docker', 'process'])
const VolumeOf = Type.Object({
  node: NodeIdText,
  name: VolumeText,
  runtime: VolumeRuntime,
  /** Absent: not measured yet. */
  bytes: Type.Optional(Seq),
  inUseBy: many(InstanceIdText, 1_000),
})
export type VolumeRow = Static<typeof VolumeOf>
/** Volumes that nodes keep (worker/node-volumes.ts); `VOLUME_UNKNOWN` and `VOLUME_IN_USE` answer the second. */
export const volumes = {
  'volumes.list': request(NOTHING, Type.Object({ volumes: many(VolumeOf, 10_000) }), 6_000),
  'volumes.remove': request(
    Type.Object({ node: NodeIdText, name: VolumeText, runtime: VolumeRuntime }),
    NOTHING,
    10_000,
  ),
}

/** For an instance that starts on the node that asks. Neither tier keeps them; only a folder in memory of the node does. */
export const secrets = {
  'secrets.read': request(
    Type.Object({ instance: InstanceIdText }),
    Type.Object({ secrets: many(Type.Object({ name: Label, value: text(100_000) }), 33) }),
    4_000,
  ),
}

/** `ended`: nothing of the instance is left. Otherwise it drains, and a report follows when it has stopped. */
export const withdraw = request(
  Type.Object({
    instance: InstanceIdText,
    /** It runs elsewhere: without draining. */
    atOnce: Type.Optional(Type.Boolean()),
    /** It runs elsewhere since a moment ago: flows that are on their way are still taken, then it drains. */
    isReplaced: Type.Optional(Type.Boolean()),
  }),
  Type.Object({ ended: Type.Boolean() }),
)

/** What became of one of many: `moved` as for `delegate`; `error`: it was refused. Those of a request are in its order. */
const OutcomeOf = Type.Object({
  moved: Type.Optional(Type.Boolean()),
  error: Type.Optional(
    Type.Object({
      code: text(64),
      details: Type.Optional(Type.Record(Type.String({ maxLength: 64 }), Type.Unknown())),
    }),
  ),
})
export type WireOutcome = Static<typeof OutcomeOf>
/** As one request for each, in one message; peers of earlier versions do not know it. */
export const assignMany = request(
  Type.Object({ assignments: many(AssignmentOf, BATCH) }),
  Type.Object({ outcomes: many(OutcomeOf, BATCH) }),
  30_000,
)
export const withdrawMany = request(
  Type.Object({ instances: many(InstanceIdText, BATCH) }),
  /** Those of which nothing is left. */
  Type.Object({ ended: many(InstanceIdText, BATCH) }),
)

/** The signed list of revoked certificates (core/identity/revocation-list.ts); absent while nothing was ever revoked. */
export const RevocationList = Type.Optional(text(MAX_LIST_CHARS))
/** Relays that nodes may use: `wss://host:port/relay`. */
export const Relays = many(text(500), MAX_RELAYS)
/** A second process with the identity of this peer was refused. */
export const Duplicate = Type.Object({})
/** The process that says hello (peer-links.ts): a second one with a copy of the same state is refused. */
export const Process = Type.Optional(text(64))
/** Which authorities a member trusts and presents (core/identity/contract.ts); absent in messages of earlier versions. */
const Trust = Type.Object({ trusts: many(text(16), 2), presents: Type.Optional(text(16)) })
export const TrustOf = Type.Optional(Trust)
export const NodeHello = Type.Object({ facts: Facts, reports: many(Report, 10_000), process: Process, trust: TrustOf })
export const NodeWelcome = Type.Object({
  /** What the node should run: it stops everything else, and is then assigned what it lacks. */
  instances: many(InstanceIdText, 10_000),
  revocations: RevocationList,
  relays: Relays,
})
export const Revocations = Type.Object({ list: RevocationList })
export const TrustChanged = Type.Object({ trust: Trust })
/** The peer is to ask for a new certificate now: the issuer's own is by another authority than the peer's. */
export const RenewNow = Type.Object({})
export const Renew = request(Type.Object({ csr: Csr }), Type.Object({ chain: Pem }))
