import type { IncomingMessage, Server as HttpServer, ServerResponse } from 'node:http'
import type { Server } from 'node:net'
import type { Duplex } from 'node:stream'
import { unmapped } from './host-port.ts'
import { type Ends, endsOf, isFromHere, type LocalUsers, localUsers } from './local-users.ts'
import { openFilesLimit } from './open-files.ts'

/*
 * Which connections a server keeps when clients open more than it can hold. One mechanism for every listener: a connection counts
 * only while it is silent, that is until it has proved something (a TLS handshake, a login, the head of a request), and again
 * between two requests.
 *
 *     connection ─▶ silent ──active()──▶ active        not counted here; other limits apply
 *                     │     ◀─silent()──
 *                     └── one too many ─▶ of the source that has the most silent connections, the oldest is closed
 *
 * So a client that opens thousands and says nothing loses its own connections, and a newcomer is never refused: a source that is
 * smaller than the largest one keeps everything, and one that shares its address with the attacker (behind one NAT) has as long to
 * speak as it takes the attacker to open `most` connections. A program of this machine can come from thousands of its addresses
 * (127.0.0.0/8), so the whole machine is one source; once half of the places are taken its users are told apart (local-users.ts), and
 * each is a source of its own, whatever its addresses.
 */

export interface AdmissionLimits {
  /**
   * Silent connections at the same time, and never more than a share of the files that this process may open. Smaller: less time
   * to speak during a flood; larger: more descriptors and memory.
   */
  most: number
  /** Silent connections of one source; as many as `most` when absent. */
  mostOfOne?: number
  /** Tells the users of this machine apart. */
  users?: Pick<LocalUsers, 'userOf'>
}

/** A connection that was admitted. */
export interface Admitted {
  /** It has proved something, or a request of it is being served: it is not counted until `silent`. */
  active(): void
  /** It waits for the client again. */
  silent(): void
}

/** What is admitted: a socket, or anything with an end. */
export interface Admissible {
  destroy(): unknown
  once(event: 'close', listener: () => void): unknown
}

interface Entry {
  readonly connection: Admissible
  /** Changes once, when the user is known. */
  source: string
  /** Of a connection from this machine whose user was not asked for yet. */
  ends?: Ends | undefined
}

/**
 * A role has up to a dozen listeners; when all of them are flooded at once, two thirds of the descriptors are left for those that
 * speak. Larger: less time to speak during a flood on a process with few descriptors.
 */
const SHARE_OF_FILES = 32
const FEWEST = 8

export class Admission {
  readonly #limits: Required<Omit<AdmissionLimits, 'users'>>
  readonly #users: Pick<LocalUsers, 'userOf'>
  /** Silent ones with `ends`. */
  readonly #unasked = new Set<Entry>()
  /** Silent connections of each source, the oldest first. */
  readonly #silent = new Map<string, Set<Entry>>()
  #count = 0
  /** Connections that were closed to make room. */
  evicted = 0

  constructor({ most, mostOfOne = most, users = localUsers }: AdmissionLimits, openFiles = openFilesLimit()) {
    this.#users = users
    const affordable = Math.max(FEWEST, Math.floor(openFiles / SHARE_OF_FILES))
    this.#limits = { most: Math.min(most, affordable), mostOfOne: Math.min(mostOfOne, affordable) }
  }

  /** Silent connections now. */
  get size(): number {
    return this.#count
  }

  /** Takes a new connection; it counts as silent. `from`: a name of its source, or its ends. */
  enter(connection: Admissible, from: string | Ends): Admitted {
    const entry: Entry =
      typeof from === 'string'
        ? { connection, source: from }
        : isFromHere(from)
          ? { connection, source: THIS_MACHINE, ends: endsOf(from) }
          : { connection, source: sourceOf(from) }
    let isClosed = false
    this.#add(entry)
    connection.once('close', () => {
      isClosed = true
      this.#remove(entry)
    })
    return {
      active: () => this.#remove(entry),
      silent: () => {
        if (isClosed) return
        this.#remove(entry)
        this.#add(entry)
      },
    }
  }

  #add(entry: Entry): void {
    const { most, mostOfOne } = this.#limits
    if ((this.#silent.get(entry.source)?.size ?? 0) >= mostOfOne) this.#evict(entry.source)
    if (this.#count >= most) this.#evict(this.#largest(entry.source))
    const ofSource = this.#silent.get(entry.source) ?? new Set()
    this.#silent.set(entry.source, ofSource)
    ofSource.add(entry)
    this.#count += 1
    if (entry.ends !== undefined) this.#unasked.add(entry)
    if (this.#count * 2 >= most && this.#unasked.size > 0) this.#tellUsersApart()
  }

  #tellUsersApart(): void {
    for (const entry of this.#unasked) {
      const { ends } = entry
      entry.ends = undefined
      if (ends === undefined) continue
      void this.#users.userOf(ends).then((uid) => {
        if (uid !== undefined) this.#rename(entry, `uid ${uid}`)
      })
    }
    this.#unasked.clear()
  }

  #rename(entry: Entry, source: string): void {
    const isSilent = this.#take(entry)
    entry.source = source
    if (!isSilent) return
    const others = this.#silent.get(source)
    if (others === undefined) this.#silent.set(source, new Set([entry]))
    else others.add(entry)
    this.#count += 1
  }

  #remove(entry: Entry): void {
    this.#unasked.delete(entry)
    this.#take(entry)
  }

  /** False when it is not silent. */
  #take(entry: Entry): boolean {
    const ofSource = this.#silent.get(entry.source)
    if (ofSource?.delete(entry) !== true) return false
    this.#count -= 1
    if (ofSource.size === 0) this.#silent.delete(entry.source)
    return true
  }

  #evict(source: string): void {
    for (const oldest of this.#silent.get(source) ?? []) {
      this.#remove(oldest)
      this.evicted += 1
      oldest.connection.destroy()
      return
    }
  }

  /** Of equally large sources the one that has waited longest; `newcomer` counts with the connection it is about to add. */
  #largest(newcomer: string): string {
    let [largest, size] = [newcomer, (this.#silent.get(newcomer)?.size ?? 0) + 1]
    if (size === 1) size = 0 // it has none yet to lose
    for (const [source, { size: other }] of this.#silent) if (other > size) [largest, size] = [source, other]
    return largest
  }
}

/** The source of what programs of this machine open, as long as nobody knows which user's it is. */
export const THIS_MACHINE = 'this machine'

/** The source of a connection: its address, or its /64 where it is IPv6, since one client has all addresses of that. */
export function sourceOf({ remoteAddress = '' }: { remoteAddress?: string | undefined }): string {
  const address = unmapped(remoteAddress)
  return address.includes(':') ? prefix64(address) : address
}

function prefix64(address: string): string {
  const [head = '', tail] = address.replace(/%.*$/, '').split('::')
  const groups = (part: string) => (part === '' ? [] : part.split(':'))
  const [before, after] = [groups(head), groups(tail ?? '')]
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => '0')
  return `${[...before, ...zeros, ...after].slice(0, 4).join(':')}::/64`
}

/**
 * Admits the connections of an HTTP or HTTPS server: active while a request is served and once one was upgraded, silent before
 * the first request, which covers the TLS handshake, and between two.
 */
export function admitHttp(server: HttpServer, admission: Admission): void {
  const admitted = new Map<string | Duplex, Admitted>()
  // an HTTP server and the TLS below it see the same addresses; those of a Unix socket have none, and no TLS
  const keyOf = (socket: Duplex & Ends) =>
    socket.remoteAddress === undefined ? socket : `${socket.remoteAddress} ${socket.remotePort}`
  server.prependListener('connection', (socket: Duplex & Ends) => {
    const key = keyOf(socket) // a closed socket has no address any longer
    admitted.set(key, admission.enter(socket, socket))
    socket.once('close', () => admitted.delete(key))
  })
  server.prependListener('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
    const connection = admitted.get(keyOf(socket))
    connection?.active()
    response.once('close', () => connection?.silent())
  })
  const taken = ({ socket }: IncomingMessage) => admitted.get(keyOf(socket))?.active()
  for (const event of ['upgrade', 'connect']) whenListenedTo(server, event, () => server.prependListener(event, taken))
}

/** Node leaves an upgrade to whoever listens to it: a listener of ours alone would leave the client without an answer. */
function whenListenedTo(server: Server, event: string, act: () => void): void {
  if (server.listenerCount(event) > 0) return act()
  const added = (name: string) => {
    if (name !== event) return
    server.off('newListener', added)
    act()
  }
  server.on('newListener', added)
}
