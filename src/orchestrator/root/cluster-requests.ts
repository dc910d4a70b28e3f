import { interestOf, type InstanceId, type NodeId } from '../../core/model/ids.ts'
import { Gathered } from '../link/gathered.ts'
import { bytesOf, outcomeOf } from '../link/outcomes.ts'
import type { Assignment } from '../spec.ts'
import { sendEntries, type ClusterLink } from './clusters.ts'
import { entriesUnder } from './entries.ts'
import type { RootStore } from './root-store.ts'
import type { Vips } from './vips.ts'

/** What the root asks of clusters for many instances: in one message for each cluster and turn of the event loop. */
export class ClusterRequests {
  readonly #delegations: Gathered<ClusterLink, Assignment, { moved?: boolean }>
  readonly #withdrawals: Gathered<ClusterLink, InstanceId, boolean>
  /** A cluster has the entry of a service before it places an instance of it. */
  readonly #sendKnown: (link: ClusterLink, assignments: readonly Assignment[]) => void

  constructor({ store, vips }: { store: RootStore; vips: Vips }) {
    const sendKnown = (link: ClusterLink, assignments: readonly Assignment[]) => {
      const keys = new Set(assignments.map(({ spec }) => interestOf(spec.id)))
      sendEntries(
        link,
        [...keys].map((key) => entriesUnder(key, store, vips)),
      )
    }
    this.#sendKnown = sendKnown
    this.#delegations = new Gathered({
      sizeOf: bytesOf,
      ready: (link) => link.uncongested(),
      many: async (link, assignments) => {
        sendKnown(link, assignments)
        const { outcomes } = await link.request('delegate.many', { assignments: [...assignments] })
        return outcomes.map(outcomeOf)
      },
      one: (link, assignment) => {
        sendKnown(link, [assignment])
        return link.request('delegate', { assignment })
      },
    })
    this.#withdrawals = new Gathered({
      ready: (link) => link.uncongested(),
      many: async (link, instances) => {
        const { ended } = await link.request('withdraw.many', { instances: [...instances] })
        const gone = new Set(ended)
        return instances.map((instance) => ({ value: gone.has(instance) }))
      },
      one: async (link, instance) => (await link.request('withdraw', { instance })).ended,
    })
  }

  /** @throws MeshError UNPLACEABLE with the cluster's reasons, LINK_CLOSED, REQUEST_TIMEOUT */
  delegate(link: ClusterLink, assignment: Assignment): Promise<{ moved?: boolean }> {
    return this.#delegations.ask(link, assignment)
  }

  /** As `delegate`, for one that may run elsewhere now, and `to` this node if given. The answer has the node. */
  async delegateMove(link: ClusterLink, assignment: Assignment, to?: NodeId): Promise<{ node?: NodeId | undefined }> {
    this.#sendKnown(link, [assignment])
    return link.request('delegate', { assignment, ...(to === undefined ? {} : { to }) })
  }

  /** True when nothing of the instance is left. @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT */
  withdraw(link: ClusterLink, instance: InstanceId): Promise<boolean> {
    return this.#withdrawals.ask(link, instance)
  }
}
