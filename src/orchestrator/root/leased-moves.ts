import { MeshError } from '../../core/errors.ts'
import type { Log } from '../../core/kit/log.ts'
import type { InstanceId, NodeId, ServiceId } from '../../core/model/ids.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { MoveCause } from '../spec.ts'
import type { Clusters } from './clusters.ts'
import type { EventSink } from './events/event.ts'
import { refusedOf } from './former-place.ts'
import { changeInstance } from './instance-records.ts'
import type { Placing } from './placing.ts'
import type { InstanceRecord, RootStore } from './root-store.ts'

export interface LeasedMovesParts {
  readonly store: RootStore
  readonly clusters: Clusters
  readonly placing: Placing
  readonly events: EventSink
  readonly clock: Clock
  readonly log: Log
  readonly publish: (service: ServiceId) => void
  readonly touch: (service: ServiceId) => void
}

/** Where it ended it is not started again at once, unless nobody else takes it. */
const NOT_BACK_MS = 5_000
const STOPPED_FIRST = 'it has lease_seconds: no second run of it starts beside it, so it is stopped first'

/**
 * Planned moves between clusters of what never runs twice (`lease_seconds`), as cluster/leased-moves.ts within one:
 *
 *     runs in `a` ─▶ movesTo: `a` is asked to end it ─▶ `a` says that it has ended ─▶ placed: on that node, or where there is room then
 *
 * If `a` is cut off meanwhile, all waits for it: it may still run there.
 */
export class LeasedMoves {
  readonly #parts: LeasedMovesParts

  constructor(parts: LeasedMovesParts) {
    this.#parts = parts
  }

  /** @throws MeshError UNPLACEABLE when no other cluster seems to have room; then nothing has changed */
  begin(record: InstanceRecord, { to, cause }: { to: NodeId | undefined; cause: MoveCause | undefined }) {
    const { clusters, placing, log } = this.#parts
    const { id, cluster: from = '', node } = record
    clusters.require(from)
    const found = placing.preview(record, to)
    if ('reason' in found) throw new MeshError('UNPLACEABLE', { instance: id, reason: found.reason })
    const movesTo = {
      leaves: from,
      ...(node === undefined ? {} : { from: node.id }),
      ...(to === undefined ? {} : { node: to }),
      ...(cause === undefined ? {} : { cause }),
    }
    this.#change(id, { movesTo })
    log.info('instance moves to another cluster', { instance: id, from, cluster: found.cluster })
    this.goOn({ ...record, movesTo })
    return { cluster: found.cluster, node: to, gap: STOPPED_FIRST }
  }

  /** Asks its cluster, once more, to end it. */
  goOn({ id, wanted, cluster, movesTo }: InstanceRecord): void {
    const { clusters } = this.#parts
    if (!wanted || movesTo === undefined || movesTo.leaves !== cluster) return
    clusters
      .linked(cluster)
      ?.link.request('withdraw', { instance: id })
      .then(
        ({ ended }) => ended && this.hasEnded(id),
        () => undefined, // asked again by the reconciler
      )
  }

  /** Nothing of it is left in the cluster that it leaves. False when it does not move. */
  hasEnded(id: InstanceId): boolean {
    const { store, placing, publish, touch } = this.#parts
    const record = store.instances.get(id)
    if (record?.movesTo === undefined || !record.wanted || record.cluster !== record.movesTo.leaves) return false
    this.#change(id, refusedOf({ former: undefined }))
    placing.refuse(id, record.movesTo.leaves, NOT_BACK_MS)
    publish(record.service)
    touch(record.service)
    return true
  }

  /** It has no place: it goes where it was to go, else where there is room. */
  async place(id: InstanceId): Promise<void> {
    const { store, placing } = this.#parts
    const { movesTo } = store.instances.get(id) ?? {}
    const placed = movesTo?.node === undefined ? undefined : await placing.place(id, { only: movesTo.node })
    if (placed?.kind !== 'placed') await placing.place(id)
    const now = store.instances.get(id)
    if (now?.movesTo !== undefined && now.cluster === now.movesTo.leaves) this.#change(id, { movesTo: undefined }) // back again
  }

  #change(id: InstanceId, change: Parameters<typeof changeInstance>[1]): void {
    changeInstance(id, change, this.#parts)
  }
}
