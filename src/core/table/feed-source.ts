import type { FeedMessage, ResumePoint } from '../model/change.ts'
import type { InterestKey } from '../model/ids.ts'
import type { VipIndex } from '../model/service.ts'
import type { Answer } from './table.ts'

/** The control link of the node, as the table needs it; the agent provides it. */
export interface FeedSource {
  /** Subscribes to the key and returns everything under it. @throws MeshError REQUEST_TIMEOUT or LINK_CLOSED */
  ask(key: InterestKey, signal: AbortSignal): Promise<Answer>
  /** The key of the service behind a VIP; `undefined` when there is none. Same errors. */
  askVip(vip: VipIndex, signal: AbortSignal): Promise<InterestKey | undefined>
  /** Unsubscribes; there is no reply. */
  forget(keys: readonly InterestKey[]): void
  /**
   * Whenever the link comes up (or is up already at the call): sends `point()`, yields the answer as `resumed`, and then `changes`
   * in order, as they arrive. Ends when the signal is aborted or the consumer leaves the loop.
   */
  messages(point: () => ResumePoint, signal: AbortSignal): AsyncIterable<FeedMessage>
}
