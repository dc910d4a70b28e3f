import type { InterestKey, ServiceId } from './ids.ts'
import type { Instance } from './instance.ts'
import type { NodeReach } from './node.ts'
import type { Service } from './service.ts'

/** Everything about one service at one version. It is swapped as a whole, so no reader ever sees half of an update. */
export interface ServiceEntry {
  /** Grows with each change of this service; an older one never replaces a newer. */
  version: number
  service: Service
  instances: readonly Instance[]
  /** The nodes the instances are on. */
  nodes: readonly NodeReach[]
}

/** A numbered update. After a gap, a node resumes from its number and receives what it missed, as whole entries. */
export type Change =
  | { seq: number; kind: 'service'; key: InterestKey; entry: ServiceEntry }
  | { seq: number; kind: 'gone'; key: InterestKey; service: ServiceId }

/** How far a node has followed the changes. An empty epoch: it knows nothing yet. */
export interface ResumePoint {
  /** Names one run of the numbering; a cluster that lost its numbers starts another. */
  epoch: string
  seq: number
  keys: readonly InterestKey[]
}

/** The cluster's answer to a resume point. `full`: `changes` hold everything under the keys, so anything else is gone. */
export interface Resumed {
  epoch: string
  seq: number
  full: boolean
  changes: readonly Change[]
}

/** What a cluster sends to a node that follows its changes. */
export type FeedMessage =
  | { kind: 'resumed'; resumed: Resumed }
  | { kind: 'changes'; epoch: string; changes: readonly Change[] }
