import { randomUUID } from 'node:crypto'
import { MeshError } from '../../core/errors.ts'
import type { Link } from './link.ts'

/** This process in a hello: two processes with copies of one state directory have the same certificate, but not this. */
export const PROCESS_ID = randomUUID()

/** The part of a link that decides which one is used. */
export type ManagedLink = Pick<Link<never, never>, 'close' | 'isOpen' | 'ended' | 'provesAlive'>

interface InUse<L> {
  link: L
  /** Of the peer's process; absent for a peer of an earlier version. */
  process: string | undefined
  /** The peer announced that another process of it takes over. */
  isLeaving: boolean
}

/** Links of one peer that have not said hello. More than a peer that reconnects needs; each may hold a large message. */
const MAX_WAITING = 4
/** A link must say hello within this time. Smaller refuses slow networks, larger lets a peer hold links that do nothing. */
const HELLO_MS = 10_000

/**
 * The control links of one kind of peer, by name: one is in use for each.
 *
 *     accepted ─▶ hello ─▶ in use ─▶ closed (ended, replaced by a newer link of the same process, or expelled)
 *        │          └────▶ refused: another process with this identity is alive
 *        └───────────────▶ closed: no hello in time, or too many links
 */
export class PeerLinks<L extends ManagedLink> {
  readonly #inUse = new Map<string, InUse<L>>()
  readonly #waiting = new Map<string, Set<L>>()
  readonly #onDuplicate: (name: string, inUse: L) => void

  /** `onDuplicate`: a second process tried to use the identity of this link. */
  constructor(onDuplicate: (name: string, inUse: L) => void) {
    this.#onDuplicate = onDuplicate
  }

  get(name: string): L | undefined {
    return this.#inUse.get(name)?.link
  }

  values(): L[] {
    return Array.from(this.#inUse.values(), ({ link }) => link)
  }

  /** A new link, proven by its certificate. It is not in use before `claim`. */
  accept(name: string, link: L): void {
    const waiting = this.#waiting.get(name) ?? new Set<L>()
    this.#waiting.set(name, waiting)
    const [oldest] = waiting
    if (oldest !== undefined && waiting.size >= MAX_WAITING) {
      waiting.delete(oldest)
      oldest.close('too many links')
    }
    waiting.add(link)
    const timer = setTimeout(() => {
      if (waiting.has(link)) link.close('no hello')
    }, HELLO_MS)
    timer.unref()
    void link.ended.then(() => {
      clearTimeout(timer)
      this.#forgetWaiting(name, link)
      if (this.#inUse.get(name)?.link === link) this.#inUse.delete(name)
    })
  }

  /**
   * The link has said hello and is in use from now on; an older one is closed. A link of another process must show within a few
   * seconds that it is dead.
   * @throws MeshError DUPLICATE_IDENTITY when it is alive, LINK_CLOSED when the new one ended meanwhile
   */
  async claim(name: string, link: L, process?: string): Promise<void> {
    for (let older = this.#inUse.get(name); older !== undefined && older.link !== link; older = this.#inUse.get(name)) {
      const isOther = process !== undefined && older.process !== undefined && older.process !== process
      if (isOther && !older.isLeaving && (await older.link.provesAlive())) {
        if (this.#inUse.get(name) !== older || older.isLeaving) continue
        this.#onDuplicate(name, older.link)
        throw new MeshError('DUPLICATE_IDENTITY', { node: name })
      }
      if (this.#inUse.get(name) === older) this.#inUse.delete(name)
      older.link.close('replaced by a newer link')
    }
    if (!link.isOpen) throw new MeshError('LINK_CLOSED', { peer: name })
    this.#forgetWaiting(name, link)
    this.#inUse.set(name, { link, process, isLeaving: false })
  }

  /** The peer hands over to another of its processes, or (false) does not after all. */
  handOver(name: string, isLeaving: boolean): void {
    const inUse = this.#inUse.get(name)
    if (inUse !== undefined) inUse.isLeaving = isLeaving
  }

  /** Closes every link of the peer. */
  expel(name: string, reason: string): void {
    const links = [this.get(name), ...(this.#waiting.get(name) ?? [])]
    this.#inUse.delete(name)
    this.#waiting.delete(name)
    for (const link of links) link?.close(reason)
  }

  #forgetWaiting(name: string, link: L): void {
    const waiting = this.#waiting.get(name)
    waiting?.delete(link)
    if (waiting?.size === 0) this.#waiting.delete(name)
  }
}
