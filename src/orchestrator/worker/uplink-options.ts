import type { Agent } from 'node:https'
import type { MeshError } from '../../core/errors.ts'
import type { Identity, Trust } from '../../core/identity/contract.ts'
import type { RenewOptions } from '../../core/identity/renewal.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { InstanceId, InterestKey } from '../../core/model/ids.ts'
import type { LinkOfNode } from '../link/messages/both.ts'
import type { Assignment, InstanceReport, NodeFacts, Replacement, RunKey } from '../spec.ts'
import type { ExecSource } from './exec-streams.ts'
import type { UplinkLeases } from './lease-renewals.ts'
import type { LogSource } from './log-streams.ts'
import type { NodeVolumes } from './node-volumes.ts'
import type { InstanceUsage } from './usage.ts'

/** The worker, as the link needs it. */
export interface UplinkWorker extends LogSource, ExecSource {
  /** @throws MeshError with `details.reason` when this node cannot take it */
  assign(assignment: Assignment, how?: Replacement): void | Promise<void>
  /** False when there is nothing of it here. */
  withdraw(instance: InstanceId, options?: { drainSeconds?: number }): boolean
  /** Ends this run of it, if that does not serve yet. */
  cancel(instance: InstanceId, run: RunKey): void
  /** Ends everything else. */
  keepOnly(wanted: Iterable<InstanceId>): void
  reports(): readonly InstanceReport[]
  /** What the instances use now. */
  usage(signal: AbortSignal): Promise<InstanceUsage[]>
  readonly volumes: Pick<NodeVolumes, 'list' | 'remove'>
}

/** An identity that renews itself through this link. */
export interface RenewingIdentity extends Identity {
  readonly trust: Trust
  /** The cluster asks for it. */
  renewSoon(): void
  renewLoop(options: RenewOptions, signal: AbortSignal): Promise<void>
}

export interface UplinkOptions {
  /** `https://host:port` of the cluster; of several, each is tried in turn. */
  urls: readonly string[]
  /** The way out, when it is not straight (kit/egress.ts). */
  egress?: Agent | undefined
  identity: RenewingIdentity
  facts: () => NodeFacts
  worker: UplinkWorker
  leases?: UplinkLeases
  /** How this node reaches others now. */
  links?: () => LinkOfNode[]
  /** All relays at which this node may listen: at each hello, and when there are others. */
  onRelays?: (urls: readonly string[]) => void
  /** The cluster would like to know how far the services under these keys are from here. */
  onWish?: (keys: readonly InterestKey[]) => void
  /** Why the cluster refused the last attempt; `undefined` once the link is up. */
  onRefusal?: (refusal: MeshError | undefined) => void
  /** Distinguishes this process from another one with a copy of the same state (link/peer-links.ts). */
  process?: string
  /** Nothing that depends on this node at once is under way: its heartbeats may be few (link/pace.ts). */
  isAtRest?: () => boolean
  /** The longest rest between two tries. */
  limitMs?: number
  random?: () => number
  clock?: Clock
}
