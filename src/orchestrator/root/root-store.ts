import { join } from 'node:path'
import type { Revocation, Trust } from '../../core/identity/contract.ts'
import { type Collection, Store } from '../../core/kit/store.ts'
import type { ChoiceKey } from '../../core/model/choice.ts'
import type { InstanceId, NodeId, ServiceId } from '../../core/model/ids.ts'
import type { InstanceState } from '../../core/model/instance.ts'
import type { NodeReach } from '../../core/model/node.ts'
import type { VipIndex } from '../../core/model/service.ts'
import type { KeptDecision } from '../scheduling/kept-decisions.ts'
import type { MoveCause, ServiceSpec, SuccessorReport } from '../spec.ts'
import type { NodeRow } from '../link/messages/cluster-root.ts'
import { type Asking, AskingServices } from './asking-services.ts'
import type { AuditEntry } from './people/audit.ts'
import type { ClusterOwner, Organisation, User, UserToken } from './people/records.ts'
import type { EnrolmentRecord } from './revocation-register.ts'
import type { KeptAnswer } from './v1/repeats.ts'

export interface AppRecord {
  app: string
  namespace: string
  description: string
  customer: string
}

export interface ServiceRecord {
  id: ServiceId
  spec: ServiceSpec
  /** Grows when running instances must be restarted. */
  generation: number
  /** Grows with every change that its clusters and nodes must learn; absent in records of earlier versions. */
  revision?: number
  /** Grows with every document that changes it; what tables show is numbered by each cluster (cluster/change-log.ts). */
  version: number
  /** Of a job: the newest run that was asked for without a new document. */
  run?: AskedRun
  /** Of a job with a schedule: what was due up to this time has been decided, milliseconds since 1970. */
  scheduled?: { after: number }
}

export interface AskedRun {
  /** Of the service, since then. */
  generation: number
  by: 'schedule' | 'user'
  /** When it was due. */
  due?: number
}

export interface InstanceRecord {
  id: InstanceId
  service: ServiceId
  ordinal: number
  /** False: it is being withdrawn, and its record is deleted when it has stopped. */
  wanted: boolean
  /** The newest generation that was delegated to its cluster. */
  generation: number
  /** The newest revision that its cluster has taken over. */
  revision?: number
  /** Why its node does not meet the document as it is now; it runs on until another place is found. */
  unsuited?: string
  state: InstanceState
  /** Of a job with a schedule: it is not placed before a run is due. */
  isIdle?: true
  /** Of a job whose runs may overlap: it was added for a run, beyond the replicas (jobs/slots.ts). */
  isFurther?: true
  /** Of a job: the run that it was given last. */
  asked?: AskedRun
  detail?: string
  restarts: number
  /** Of the run that serves: grows with every restart and move by its cluster. */
  epoch?: number
  /** When it is started again, milliseconds since 1970; while that takes long. */
  retryAt?: number
  /** The cluster that runs it, or was asked to. */
  cluster?: string
  node?: NodeReach
  /** While its cluster looks for another node: the one that it had. `cause`: who wanted it elsewhere, and why. */
  was?: { node: NodeId; cause?: MoveCause }
  /** Its node is lost, and its cluster has no other that can take it. */
  noOtherNode?: true
  /** Which constraint it does not keep to; for people. */
  violation?: string
  /**
   * Nodes of other clusters that ran it, and when it was placed elsewhere, milliseconds since 1970. They were lost, but for those where it
   * `drains` because it was moved.
   */
  leftOn?: { node: NodeId; at: number; drains?: boolean }[]
  /** While another cluster is asked to take it: the place that it has if that refuses, where it may still run. */
  former?: FormerPlace
  /** The node in another cluster that it has moved from, while what is on its way there is finished: it may still call. */
  drainsOn?: NodeId
  /**
   * It never runs twice: it ends in the cluster that it `leaves`, and then starts on this node, or where there is room
   * (leased-moves.ts). `from`: its node there.
   */
  movesTo?: { leaves: string; from?: NodeId; node?: NodeId; cause?: MoveCause }
  /** When it went to another cluster because of a constraint, milliseconds since 1970, oldest first. */
  constraintMoves?: number[]
  /** A newer run that is to take its place. */
  successor?: SuccessorReport & { node?: NodeId }
  /** With a successor: the generation of the run that serves. */
  servingGeneration?: number
  /** Why its update waits: no newer run may start beside it. */
  waits?: string
  /** Why it had to be stopped before its newer run could start. */
  gap?: string
  /** Other nodes with a run of it, which may call. */
  also?: NodeId[]
  /** Milliseconds since 1970. */
  changedAt: number
}

/** A key that is `undefined` is removed from the record. */
export type InstanceChange = { [K in keyof InstanceRecord]?: InstanceRecord[K] | undefined }

export type FormerPlace = Pick<
  InstanceRecord,
  'generation' | 'revision' | 'unsuited' | 'state' | 'detail' | 'node' | 'noOtherNode' | 'violation'
> & {
  cluster: string
  /** Who wants it elsewhere, and why. */
  cause?: MoveCause
}

export interface VipRecord {
  index: VipIndex
  service: ServiceId
  choice: ChoiceKey
  /** A document asks for this address; absent when the root assigned it by itself. */
  requested?: true
  /** Milliseconds since 1970; absent while in use. */
  freedAt?: number
}

export interface ClusterRecord {
  name: string
  enrolledAt: number
  /** Its certificates belong to this enrolment. */
  enrolment: string
  /** The keys that it may sign with: those of its certificates that have not expired. */
  issuers: { keyId: string; until: number }[]
  /** What it reported last of the authorities; absent for an earlier version. */
  trust?: Trust
}

/** The nodes of one cluster as it listed them last. */
export interface KnownNodes {
  rows: NodeRow[]
  /** Milliseconds since 1970. */
  at: number
}

/** What was applied of a service, and when: what `rollback` goes back to. */
export interface RevisionRecord {
  service: ServiceId
  /** 1, 2, 3 … of each service. */
  number: number
  spec: ServiceSpec
  /** Of the service record that it became. */
  generation: number
  /** Milliseconds since 1970. */
  at: number
  /** The revision that it repeats. */
  rollbackTo?: number
  /** Nobody asked for the rollback: an update had failed. */
  isAutomatic?: true
  /** Every instance ran it. */
  isComplete?: true
}

/** One run of an instance of a job: of one generation and epoch, with all of its tries. */
export interface JobRun {
  /** 1, 2, 3 … of each instance. */
  number: number
  generation: number
  epoch: number
  /** Who asked for it: a document that was applied, its schedule, or a person. */
  by: 'document' | 'schedule' | 'user'
  /** When it was due by its schedule. All times are milliseconds since 1970. */
  due?: number
  at: number
  endedAt?: number
  /** `replaced`: another run began before it had ended. */
  state: 'running' | 'succeeded' | 'failed' | 'replaced'
  tries: number
  node?: NodeId
  detail?: string
}

/** Of one secret, sealed (secrets.ts). */
export interface SecretRecord {
  name: string
  /** Base64. */
  sealed: string
  bytes: number
  /** Milliseconds since 1970. */
  createdAt: number
  changedAt: number
}

export interface ApiToken {
  role: 'admin'
  hash: string
}

/** The root's state on disk: what is wanted, and what clusters have reported. */
export class RootStore implements Disposable {
  readonly database: Store
  readonly apps: Collection<AppRecord>
  readonly services: Collection<ServiceRecord>
  /** Who asks what of whom, of all services. */
  readonly asking: Asking
  readonly instances: Collection<InstanceRecord>
  readonly vips: Collection<VipRecord>
  readonly clusters: Collection<ClusterRecord>
  /** By cluster. */
  readonly nodes: Collection<KnownNodes>
  readonly enrolments: Collection<EnrolmentRecord>
  readonly revocations: Collection<Revocation>
  readonly tokens: Collection<ApiToken>
  readonly counters: Collection<number>
  /** By service and number (revisions.ts). */
  readonly revisions: Collection<RevisionRecord>
  /** By instance of a job. */
  readonly runs: Collection<readonly JobRun[]>
  /** By instance: why it is in its cluster. */
  readonly decisions: Collection<KeptDecision>
  /** Sealed (secrets.ts). */
  readonly secrets: Collection<SecretRecord>

  /** By idempotency key (v1/repeats.ts). */
  readonly answers: Collection<KeptAnswer>

  // whose all that is (people/)
  readonly organisations: Collection<Organisation>
  readonly users: Collection<User>
  readonly userTokens: Collection<UserToken>
  /** By cluster. */
  readonly clusterOwners: Collection<ClusterOwner>
  readonly audit: Collection<AuditEntry>
  /** Itself, also where a caller is given a part of it (people/scoped.ts). */
  readonly whole: RootStore

  private constructor(database: Store) {
    this.database = database
    this.apps = database.keptCollection('apps')
    const services = new AskingServices<ServiceRecord>(database.keptCollection('services'))
    database.onRollback(() => services.reload())
    this.services = services
    this.asking = services
    this.instances = database.keptCollection('instances')
    this.vips = database.collection('vips')
    this.clusters = database.keptCollection('clusters')
    this.nodes = database.keptCollection('nodes')
    this.enrolments = database.keptCollection('enrolments')
    this.revocations = database.collection('revocations')
    this.tokens = database.keptCollection('api-tokens')
    this.counters = database.keptCollection('counters')
    this.revisions = database.collection('revisions')
    this.runs = database.collection('job-runs')
    this.decisions = database.collection('decisions')
    this.secrets = database.collection('secrets')
    this.answers = database.collection('answers')
    this.organisations = database.keptCollection('organisations')
    this.users = database.keptCollection('users')
    this.userTokens = database.keptCollection('user-tokens')
    this.clusterOwners = database.keptCollection('cluster-owners')
    this.audit = database.collection('audit')
    this.whole = this
  }

  static open(dir: string): RootStore {
    return new RootStore(Store.open(join(dir, 'root.db')))
  }

  /** Counts from the wall clock on, so that a root that lost its state never counts below what it handed out before. */
  next(counter: 'version' | 'generation' | 'revision', wallMs: number): number {
    const next = (this.counters.get(counter) ?? wallMs) + 1
    this.counters.put(counter, next)
    return next
  }

  instancesOf(service: ServiceId): InstanceRecord[] {
    return this.instances.list(`${service}.`).sort((a, b) => a.ordinal - b.ordinal)
  }

  servicesOf(app: { app: string; namespace: string }): ServiceRecord[] {
    return this.services.list(`${app.app}.${app.namespace}.`)
  }

  [Symbol.dispose](): void {
    this.database.close()
  }
}
