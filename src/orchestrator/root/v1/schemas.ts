import Type, { type TSchema } from 'typebox'
import { INSTANCE_STATES } from '../../../core/model/instance.ts'
import { RULED_PATHS } from '../../../core/model/path-rule.ts'
import { DrainStatusOf } from '../../link/messages/cluster-root.ts'
import { ExplanationOf, Spec } from '../../link/schemas.ts'
import { ACTORS, EVENT_WORDS, type EventWord } from '../events/event.ts'

/** What the API answers with: one schema for each kind of thing, which the document of the API names. Times are milliseconds since 1970. */

const text = Type.String()
const optionalText = Type.Optional(text)
const count = () => Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const optionalCount = Type.Optional(count())
const time = (description: string) => Type.Optional(Type.Integer({ minimum: 0, description }))
const State = Type.Enum([...INSTANCE_STATES])

export const Problem = Type.Object(
  {
    type: Type.String({ description: '`urn:hedgerow:error:` and the code.' }),
    title: Type.String({ description: 'What is wrong, the same for every problem of this type.' }),
    status: Type.Integer({ minimum: 400, maximum: 599 }),
    detail: Type.String({ description: 'What is wrong here, in one sentence.' }),
    code: Type.String({ description: 'Of docs/errors.md.' }),
    requestId: Type.Optional(Type.String({ description: 'As in the logs of the root.' })),
    remedy: Type.Optional(Type.String({ description: 'What to do about it.' })),
    faults: Type.Optional(Type.Array(Type.Unknown(), { description: 'Each with its path, where there are several.' })),
    warnings: Type.Optional(Type.Array(Type.Unknown())),
    details: Type.Optional(Type.Record(text, Type.Unknown())),
  },
  { description: 'RFC 9457.' },
)

export const Capacity = Type.Object({
  memoryMb: Type.Number(),
  vcpus: Type.Number(),
  vgpus: Type.Number(),
  vtpus: Type.Number(),
  storageMb: Type.Number(),
  bandwidthInKbit: Type.Optional(Type.Number()),
  bandwidthOutKbit: Type.Optional(Type.Number()),
})

export const App = Type.Object({
  id: Type.String({ description: '`app.namespace`' }),
  description: text,
  customer: text,
  services: count(),
  instances: count(),
  running: count(),
})

const Port = Type.Object({
  port: Type.Integer({ minimum: 1, maximum: 65_535 }),
  target: Type.Integer({ minimum: 1, maximum: 65_535 }),
  protocol: Type.Enum(['tcp', 'udp']),
  name: optionalText,
  proxyProtocol: Type.Optional(Type.Literal('v2')),
  hostPort: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_535 })),
})

export const Service = Type.Object({
  id: Type.String({ description: '`app.namespace.service.namespace`' }),
  ports: Type.Array(Port),
  runtime: text,
  replicas: Type.Integer({ minimum: 0, description: 'Instances that are wanted.' }),
  running: Type.Integer({ minimum: 0, description: 'Instances that are ready.' }),
  detail: Type.Optional(Type.String({ description: 'What is to be said of it, for people.' })),
  update: Type.Optional(
    Type.String({ description: 'How far its roll-out is, for people; absent when there is none.' }),
  ),
  retryAt: time('When the next of its instances is started again.'),
  oneShot: Type.Optional(Type.Literal(true)),
  schedule: optionalText,
  nextRunAt: time('Of a job with a schedule.'),
  generation: count(),
  strategy: text,
  allow: Type.Array(text),
  calls: Type.Optional(
    Type.Array(
      Type.Object({
        service: Type.String({ description: '`app.namespace.service.namespace`, or without the last one.' }),
        latencyMs: Type.Optional(Type.Number({ description: 'The greatest round trip that it asks for.' })),
      }),
      { description: 'The services that its document says it calls; absent when there are none.' },
    ),
  ),
  vips: Type.Record(text, count(), { description: 'The number of the VIP of each choice.' }),
})

export const Usage = Type.Object({
  instance: text,
  cpu: Type.Number({ description: 'CPUs, as an average.' }),
  memoryMb: Type.Number(),
  memoryLimitMb: Type.Optional(Type.Number()),
  vcpuLimit: Type.Optional(Type.Number()),
  throttled: Type.Number({ description: 'The share of the time in which it waited for its limit.' }),
  oomKills: count(),
})

export const Instance = Type.Object({
  id: Type.String({ description: 'Its service and its number.' }),
  service: text,
  ordinal: count(),
  wanted: Type.Boolean({ description: 'False: it is being withdrawn.' }),
  state: State,
  outcome: Type.Optional(Type.Enum(['idle', 'succeeded', 'failed'], { description: 'Of a job that does not run.' })),
  detail: Type.Optional(Type.String({ description: 'What is to be said of it, for people.' })),
  node: Type.Optional(Type.String({ description: '`cluster/node`' })),
  cluster: optionalText,
  restarts: count(),
  generation: count(),
  revision: optionalCount,
  epoch: optionalCount,
  changedAt: Type.Integer({ minimum: 0 }),
  retryAt: time('When it is started again.'),
  nextRunAt: time('Of a job with a schedule.'),
  unsuited: optionalText,
  noOtherNode: Type.Optional(Type.Literal(true)),
  violation: Type.Optional(Type.String({ description: 'The constraint that it does not keep to.' })),
  waits: Type.Optional(Type.String({ description: 'Why its update waits.' })),
  gap: Type.Optional(Type.String({ description: 'Why it had to be stopped before its newer run could start.' })),
  also: Type.Optional(Type.Array(text, { description: 'Other nodes with a run of it.' })),
  mayAlsoRunOn: Type.Optional(Type.Array(text, { description: 'Lost nodes that may still run it.' })),
  hostPorts: Type.Optional(
    Type.Array(text, { description: 'Ports of its node on which it is reached from outside the mesh: `8080/tcp`.' }),
  ),
  successor: Type.Optional(
    Type.Object({
      generation: count(),
      epoch: optionalCount,
      state: State,
      detail: optionalText,
      restarts: count(),
      node: optionalText,
    }),
  ),
  usage: Type.Optional(Usage),
})

export const Run = Type.Object({
  id: Type.String({ description: 'Of the instance.' }),
  number: count(),
  generation: count(),
  epoch: count(),
  by: Type.Enum(['document', 'schedule', 'user']),
  due: time('By its schedule.'),
  at: Type.Integer({ minimum: 0 }),
  endedAt: time('When it ended.'),
  state: Type.Enum(['running', 'succeeded', 'failed', 'replaced']),
  tries: count(),
  node: optionalText,
  detail: optionalText,
})

const Trust = Type.Optional(Type.Object({ trusts: Type.Array(text), presents: optionalText }))

export const Node = Type.Object({
  id: Type.String({ description: '`cluster/node`' }),
  condition: Type.Enum(['alive', 'lost', 'away'], { description: '`away`: its cluster does not answer.' }),
  instances: count(),
  since: count(),
  runtimes: Type.Array(text),
  addresses: Type.Array(text),
  arch: optionalText,
  labels: Type.Record(text, text),
  area: optionalText,
  location: Type.Optional(Type.Object({ lat: Type.Number(), lon: Type.Number() })),
  coordinate: Type.Optional(
    Type.Object(
      { at: Type.Array(Type.Number()), height: Type.Number(), error: Type.Number() },
      {
        description:
          'Its place in the network, in milliseconds: the distance of two, and both heights, is the round-trip time.',
      },
    ),
  ),
  version: optionalText,
  capacity: Type.Optional(Capacity),
  freeMemoryMb: Type.Optional(Type.Number()),
  freeVcpus: Type.Optional(Type.Number()),
  asOf: time('Of one that is `away`: when its cluster said so.'),
  ageSeconds: optionalCount,
  silentMs: Type.Optional(Type.Integer({ minimum: 0, description: 'How long ago its last message came.' })),
  linksLost: Type.Optional(Type.Integer({ minimum: 0, description: 'How often its link went down lately.' })),
  dampedMs: Type.Optional(
    Type.Integer({ minimum: 0, description: 'For how long it gets only what no other node takes.' }),
  ),
  cordon: Type.Optional(
    Type.Object({
      at: Type.Integer({ minimum: 0 }),
      reason: optionalText,
      drain: Type.Optional(Type.Object({ isForced: Type.Optional(Type.Literal(true)) })),
    }),
  ),
  duplicateAt: time('When a second process with its identity was refused last.'),
  certificateUntil: time('When its certificate ends.'),
  mayStillRun: Type.Optional(
    Type.Array(text, { description: 'Instances that were placed elsewhere since it is lost.' }),
  ),
  trust: Trust,
})

export const Cluster = Type.Object({
  name: text,
  condition: Type.Enum(['alive', 'away', 'lost']),
  enrolledAt: Type.Integer({ minimum: 0 }),
  nodes: count(),
  instances: count(),
  url: optionalText,
  version: optionalText,
  free: Type.Optional(Capacity),
  total: Type.Optional(Capacity),
  asOf: time('Of one that does not answer.'),
  certificateUntil: time('When its certificate ends.'),
})

export const Link = Type.Object({
  id: Type.String({ description: 'Both nodes.' }),
  from: Type.String({ description: '`cluster/node`' }),
  to: Type.String({ description: '`cluster/node`' }),
  path: Type.Enum([...RULED_PATHS]),
  relay: Type.Optional(Type.String({ description: 'The address of the relay, on a relayed path.' })),
  rttMs: Type.Optional(Type.Number({ description: 'Round-trip time.' })),
  bytesIn: Type.Optional(
    Type.Number({ description: 'What `from` received of `to` since their session began; for those who operate both.' }),
  ),
  bytesOut: Type.Optional(Type.Number({ description: 'What it sent.' })),
})

export const Relay = Type.Object({
  id: text,
  kind: Type.Enum(['cluster', 'stand-alone']),
  url: optionalText,
  condition: Type.Enum(['alive', 'away']),
  version: optionalText,
  nodes: Type.Integer({ minimum: 0, description: 'Nodes that listen at it now.' }),
  certificateUntil: time('When its certificate ends.'),
  trust: Trust,
})

export const Volume = Type.Object({
  id: Type.String({ description: '`<name>/<cluster>/<node>/<runtime>`' }),
  name: Type.String({ description: '`app.namespace.volume`' }),
  node: text,
  runtime: Type.Enum(['docker', 'process'], { description: 'Whose it is: of containers, or of programs.' }),
  bytes: Type.Optional(
    Type.Integer({
      minimum: 0,
      description: 'What it takes of the disk, measured every 5 minutes at most; absent: not known.',
    }),
  ),
  inUseBy: Type.Array(Type.String(), { description: 'Instances that have it, or are about to.' }),
})

export const Event = Type.Object({
  number: Type.Integer({ minimum: 0, description: 'Grows with every event.' }),
  at: Type.Integer({ minimum: 0 }),
  what: Type.Enum(Object.keys(EVENT_WORDS) as EventWord[]),
  service: optionalText,
  instance: optionalText,
  node: optionalText,
  cluster: optionalText,
  by: Type.Enum([...ACTORS]),
  why: optionalText,
})

export const Status = Type.Object({
  mesh: text,
  version: text,
  authority: text,
  authorityStep: text,
  url: text,
  upSeconds: count(),
  clusters: Type.Array(text, { description: 'Those whose link is up.' }),
  apps: count(),
  services: count(),
  instances: Type.Record(text, count(), { description: 'How many are in each state.' }),
  vipsUsed: count(),
})

const Fault = Type.Object({ path: text, problem: text, remedy: optionalText })

export const Applied = Type.Object({
  apps: Type.Array(text),
  warnings: Type.Array(Fault),
  dryRun: Type.Optional(Type.Literal(true)),
  services: Type.Array(
    Type.Object({
      id: text,
      change: Type.Enum(['created', 'updated', 'unchanged', 'removed']),
      gap: Type.Optional(Type.String({ description: 'Why it does not answer while it is updated.' })),
      fields: Type.Optional(Type.Array(text, { description: 'Of a dry run: keys that have another value.' })),
      differences: Type.Optional(
        Type.Array(
          Type.Object({
            keys: Type.Array(text),
            before: Type.Optional(Type.Unknown()),
            after: Type.Optional(Type.Unknown()),
          }),
          { description: 'Of a dry run: what they were and what they would be, with every default filled in.' },
        ),
      ),
      instances: Type.Optional(
        Type.Object(
          { added: count(), replaced: count(), changedInPlace: count(), removed: count() },
          {
            description: 'Of a dry run.',
          },
        ),
      ),
      places: Type.Optional(
        Type.Array(
          Type.Object({
            instance: text,
            place: optionalText,
            reason: optionalText,
          }),
          { description: 'Of a dry run: where the first new instances would go, or why nowhere.' },
        ),
      ),
    }),
  ),
})

export const Moved = Type.Object({
  instance: text,
  from: optionalText,
  node: optionalText,
  epoch: count(),
  gap: Type.Optional(Type.String({ description: 'Why it is stopped first.' })),
  keeps: Type.Optional(Type.String({ description: 'What stays where it was.' })),
})

export const Revision = Type.Object({
  number: count(),
  generation: count(),
  at: count(),
  spec: Spec,
  rollbackTo: optionalCount,
  isAutomatic: Type.Optional(Type.Literal(true)),
  isComplete: Type.Optional(Type.Literal(true, { description: 'Every instance ran it.' })),
})

/** What is left on a node that drains. */
export const DrainStatus = DrainStatusOf

/** What one tier decided, or would decide now (without `at`). */
const TierExplanation = ExplanationOf

export const Explanation = Type.Object({
  service: text,
  instance: optionalText,
  state: Type.Optional(State),
  node: optionalText,
  detail: optionalText,
  root: TierExplanation,
  clusters: Type.Array(
    Type.Object({
      cluster: text,
      nodes: Type.Optional(TierExplanation),
      unknown: Type.Optional(Type.String({ description: 'Why it does not say.' })),
    }),
    { description: 'Which node: of the cluster that has the instance, else of every cluster that is linked.' },
  ),
})

export const Secret = Type.Object({
  name: Type.String({ description: '`app.namespace.name`' }),
  bytes: count(),
  createdAt: count(),
  changedAt: count(),
  usedBy: Type.Array(text, { description: 'Services.' }),
})

export const Authority = Type.Object({
  step: Type.Enum(['steady', 'spreading', 'issuing']),
  signs: Type.String({ description: 'The authority that signs certificates, by its id.' }),
  next: Type.Optional(Type.String({ description: 'While the step is `spreading`: the one that will sign.' })),
  replaced: Type.Optional(
    Type.String({ description: 'While the step is `issuing`: the one that signed before, and is still trusted.' }),
  ),
  members: count(),
  behind: Type.Array(Type.Object({ id: text, role: Type.Enum(['cluster', 'node', 'relay']), isLive: Type.Boolean() }), {
    description: 'Who keeps the rotation from its next step.',
  }),
})

/** One page of a list. */
export function pageOf<S extends TSchema>(items: S) {
  return Type.Object({
    items: Type.Array(items),
    next: Type.Optional(Type.String({ description: 'The `cursor` of the next page; absent on the last one.' })),
  })
}

/** The names under which the document knows them. */
export const MODELS: Readonly<Record<string, TSchema>> = {
  App,
  Applied,
  Authority,
  Capacity,
  Cluster,
  DrainStatus,
  Event,
  Explanation,
  Fault,
  Instance,
  Link,
  Moved,
  Node,
  Problem,
  Relay,
  Revision,
  Run,
  Secret,
  Service,
  Status,
  TierExplanation,
  Usage,
}
