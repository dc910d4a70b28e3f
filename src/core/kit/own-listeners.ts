import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:dgram'
import type { AddressInfo, Server } from 'node:net'
import { unmapped } from './host-port.ts'

/*
 * Every port at which a role in this process listens, whichever part of it opened the port. Node announces each listener itself
 * (`node:diagnostics_channel`), so no part can be forgotten:
 *
 *     listen, bind ─▶ announced ─▶ within a role? ─▶ listed ─▶ closed ─▶ gone       other threads send their list (`adopt`)
 *
 * No flow may reach these ports (SEC-23): a service could otherwise be pointed at the agent's own API. A program that embeds
 * hedgerow has servers of its own; those are not within a role, and may be services.
 */

type Protocol = 'tcp' | 'udp'

export interface Listener {
  readonly protocol: Protocol
  /** `0.0.0.0` and `::` mean every address of this machine. */
  readonly address: string
  readonly port: number
}

class OwnListeners {
  readonly #listed = new Set<Listener>()
  /** The same, counted by protocol, port and address; and by protocol and port alone. */
  readonly #counts = new Counts()
  /** Lists of other threads, by whatever stands for the thread. */
  readonly #adopted = new Map<object, Counts>()
  readonly #watchers = new Set<() => void>()
  readonly #role = new AsyncLocalStorage<true>()
  #isUnlisted = false

  constructor() {
    subscribe('tracing:net.server.listen:asyncEnd', (message) =>
      this.#listening((message as { server: Server }).server),
    )
    subscribe('udp.socket', (message) => this.#bound((message as { socket: Socket }).socket))
  }

  /** Runs a role: what it opens from here on, also much later, is listed. */
  within<T>(run: () => T): T {
    return this.#role.run(true, run)
  }

  /** Whether a role of this process listens there. `isLocal` says whether an address belongs to this machine. */
  has({ protocol, address, port }: Listener, isLocal: (address: string) => boolean): boolean {
    const at = { protocol, address: unmapped(address), port }
    if (this.#counts.has(at, isLocal)) return true
    for (const counts of this.#adopted.values()) if (counts.has(at, isLocal)) return true
    return false
  }

  /** The listeners of this thread. */
  list(): Listener[] {
    return [...this.#listed]
  }

  /** Calls `listener` after each change of this thread's list; returns the way to stop. */
  onChange(listener: () => void): () => void {
    this.#watchers.add(listener)
    return () => this.#watchers.delete(listener)
  }

  /** The list of another thread of this process, in place of its last one. */
  adopt(thread: object, listeners: readonly Listener[]): void {
    const counts = new Counts()
    for (const listener of listeners) counts.add(listener)
    this.#adopted.set(thread, counts)
  }

  /** The thread has ended. */
  forget(thread: object): void {
    this.#adopted.delete(thread)
  }

  /** Creates the UDP socket of one flow. It is not listed: there are many, and no service can be pointed at one. */
  unlisted<T>(create: () => T): T {
    this.#isUnlisted = true
    try {
      return create()
    } finally {
      this.#isUnlisted = false
    }
  }

  #listening(server: Server): void {
    if (this.#role.getStore() === undefined) return
    const address = server.address()
    if (address !== null && typeof address !== 'string') server.once('close', this.#add('tcp', address))
  }

  #bound(socket: Socket): void {
    if (this.#isUnlisted || this.#role.getStore() === undefined) return
    socket.once('listening', () => socket.once('close', this.#add('udp', socket.address())))
  }

  #add(protocol: Protocol, { address, port }: AddressInfo): () => void {
    const listener = { protocol, address: unmapped(address), port }
    this.#listed.add(listener)
    this.#counts.add(listener)
    this.#report()
    return () => {
      this.#listed.delete(listener)
      this.#counts.remove(listener)
      this.#report()
    }
  }

  #report(): void {
    for (const watcher of this.#watchers) watcher()
  }
}

class Counts {
  readonly #ports: Readonly<Record<Protocol, Map<number, number>>> = { tcp: new Map(), udp: new Map() }
  readonly #counts = new Map<string, number>()

  has({ protocol, address, port }: Listener, isLocal: (address: string) => boolean): boolean {
    if (!this.#ports[protocol].has(port)) return false // nearly always
    // Connecting to 0.0.0.0 leads to whatever listens on this machine.
    if (isEvery(address) || this.#counts.has(`${protocol} ${port} ${address}`)) return true
    const isAtEvery = this.#counts.has(`${protocol} ${port} 0.0.0.0`) || this.#counts.has(`${protocol} ${port} ::`)
    return isAtEvery && isLocal(address)
  }

  add({ protocol, address, port }: Listener): void {
    count(this.#ports[protocol], port, 1)
    count(this.#counts, `${protocol} ${port} ${address}`, 1)
  }

  remove({ protocol, address, port }: Listener): void {
    count(this.#ports[protocol], port, -1)
    count(this.#counts, `${protocol} ${port} ${address}`, -1)
  }
}

function count<K>(counts: Map<K, number>, key: K, by: 1 | -1): void {
  const counted = (counts.get(key) ?? 0) + by
  if (counted === 0) counts.delete(key)
  else counts.set(key, counted)
}

function isEvery(address: string): boolean {
  return address === '0.0.0.0' || address === '::'
}

/** The list of this thread. It begins when the module is loaded: before any part listens. */
export const ownListeners = new OwnListeners()
