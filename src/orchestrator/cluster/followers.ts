import type { Change } from '../../core/model/change.ts'
import type { InterestKey } from '../../core/model/ids.ts'
import type { Link } from '../link/link.ts'
import { SENT_AT_ONCE } from '../link/messages/protocol.ts'
import { type clusterToNode, type nodeToCluster } from '../link/messages/node-cluster.ts'

/** The newest change of each service under these keys after this number, in order. */
export type ChangesAfter = (seq: number, keys: ReadonlySet<InterestKey>) => readonly Change[]

export interface Follower {
  link: Link<typeof clusterToNode, typeof nodeToCluster>
  /** The services it wants to be informed about; changed by `Followers` only. */
  readonly keys: Set<InterestKey>
  /** It reads slowly: changes wait, and of each service only the newest is sent. */
  isBehind?: boolean
}

/** Which linked nodes want to be informed about what: found by key, as there are many of both. */
export class Followers {
  readonly #byKey = new Map<InterestKey, Set<Follower>>()
  readonly #all = new Set<Follower>()

  /** The node is linked, and follows what is in its `keys`. */
  join(node: Follower): void {
    this.#all.add(node)
    for (const key of node.keys) this.#add(node, key)
  }

  /** Its link has ended, or another one is used. */
  leave(node: Follower): void {
    this.#all.delete(node)
    for (const key of node.keys) this.#remove(node, key)
  }

  follow(node: Follower, key: InterestKey): void {
    node.keys.add(key)
    if (this.#all.has(node)) this.#add(node, key)
  }

  unfollow(node: Follower, key: InterestKey): void {
    node.keys.delete(key)
    this.#remove(node, key)
  }

  /** These, and nothing else. */
  followOnly(node: Follower, keys: Iterable<InterestKey>): void {
    for (const key of node.keys) this.#remove(node, key)
    node.keys.clear()
    for (const key of keys) this.follow(node, key)
  }

  wants(key: InterestKey): boolean {
    return this.#byKey.has(key)
  }

  /** Sends each node the changes it asked for, in order; one that reads slowly gets them when it has read what was sent. */
  publish(epoch: string, changes: readonly Change[], after: ChangesAfter): void {
    const wanted = new Map<Follower, Change[]>()
    for (const change of changes) {
      for (const node of this.#byKey.get(change.key) ?? []) {
        if (node.isBehind === true) continue // what it is sent next has these
        const list = wanted.get(node)
        if (list === undefined) wanted.set(node, [change])
        else list.push(change)
      }
    }
    for (const [node, list] of wanted) {
      const from = (list[0] as Change).seq - 1
      if (node.link.isCongested) void catchUp(node, { epoch, from, after })
      else node.link.notify('changes', { epoch, changes: list })
    }
  }

  #add(node: Follower, key: InterestKey): void {
    const nodes = this.#byKey.get(key)
    if (nodes === undefined) this.#byKey.set(key, new Set([node]))
    else nodes.add(node)
  }

  #remove(node: Follower, key: InterestKey): void {
    const nodes = this.#byKey.get(key)
    if (nodes?.delete(node) === true && nodes.size === 0) this.#byKey.delete(key)
  }
}

/** In order of their numbers, so that a node whose link ends meanwhile goes on from the last that it has. */
async function catchUp(
  node: Follower,
  { epoch, from, after }: { epoch: string; from: number; after: ChangesAfter },
): Promise<void> {
  const { link } = node
  node.isBehind = true
  for (let seq = from; link.isOpen; ) {
    await link.uncongested()
    const missed = after(seq, node.keys)
    for (let start = 0; start < missed.length; start += SENT_AT_ONCE) {
      await link.uncongested()
      link.notify('changes', { epoch, changes: missed.slice(start, start + SENT_AT_ONCE) })
    }
    const last = missed.at(-1)
    if (last === undefined) break
    seq = last.seq
  }
  node.isBehind = false
}
