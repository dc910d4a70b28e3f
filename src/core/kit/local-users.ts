import { readFile } from 'node:fs/promises'
import { isIPv4 } from 'node:net'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { unmapped } from './host-port.ts'

/*
 * Which user of this machine has opened a connection to us: the kernel writes it beside every connection in /proc/net/tcp. Reading that
 * costs about 1 ms for 1,000 connections of the machine, so it is done only when many are open, once for all that ask, and with a
 * pause of several times as long.
 *
 *     sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid
 *      0: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000
 */

/** Both ends of a connection, as we see it. */
export interface Ends {
  localAddress?: string | undefined
  localPort?: number | undefined
  remoteAddress?: string | undefined
  remotePort?: number | undefined
}

/** The pause between two readings, in times of what the last one took. Smaller: more of the processor; larger: known later. */
const PAUSES = 5
const SHORTEST_PAUSE_MS = 5
/** Rows in one turn of the event loop, about 1 ms. Larger: flows wait for longer. */
const ROWS_AT_ONCE = 1_000
const TABLES = ['/proc/self/net/tcp', '/proc/self/net/tcp6']

/** Kept, because a closed socket has no addresses any longer. */
export function endsOf({ localAddress, localPort, remoteAddress, remotePort }: Ends): Ends {
  return { localAddress, localPort, remoteAddress, remotePort }
}

/** Whether the other end is on this machine, as far as the addresses tell. */
export function isFromHere({ localAddress = '', remoteAddress = '' }: Ends): boolean {
  const there = unmapped(remoteAddress)
  return there === '::1' || there.startsWith('127.') || there === unmapped(localAddress)
}

interface Asked {
  readonly keys: readonly string[]
  readonly resolve: (uid: number | undefined) => void
}

export class LocalUsers {
  #waiting: Asked[] = []
  #isReading = false

  /** `undefined`: it is closed, or comes from another machine. Whoever asked first is answered first. */
  userOf(ends: Ends): Promise<number | undefined> {
    const keys = keysOf(ends)
    if (keys.length === 0) return Promise.resolve(undefined)
    const { promise, resolve } = Promise.withResolvers<number | undefined>()
    this.#waiting.push({ keys, resolve })
    if (!this.#isReading) void this.#readAll()
    return promise
  }

  async #readAll(): Promise<void> {
    this.#isReading = true
    while (this.#waiting.length > 0) {
      const waiting = this.#waiting
      this.#waiting = []
      const startedAt = performance.now()
      const wanted = new Set(waiting.flatMap(({ keys }) => keys))
      const found = new Map<string, number>()
      for (const table of TABLES) await findUsers(wanted, await readFile(table, 'latin1').catch(() => ''), found)
      for (const { keys, resolve } of waiting)
        resolve(keys.map((key) => found.get(key)).find((uid) => uid !== undefined))
      await sleep(Math.max(SHORTEST_PAUSE_MS, PAUSES * (performance.now() - startedAt)), undefined, { ref: false })
    }
    this.#isReading = false
  }
}

/**
 * Adds to `found` the user of each wanted connection that a table of /proc/net lists. Tens of thousands of rows take tens of
 * milliseconds, so flows have their turn in between.
 */
export async function findUsers(wanted: ReadonlySet<string>, table: string, found: Map<string, number>): Promise<void> {
  for (let at = table.indexOf('\n') + 1, row = 1; at > 0 && at < table.length; row++) {
    if (row % ROWS_AT_ONCE === 0) await nextTurn()
    const end = table.indexOf('\n', at)
    const line = table.slice(at, end < 0 ? undefined : end)
    at = end < 0 ? 0 : end + 1
    const start = line.indexOf(': ') + 2
    const key = line.slice(start, line.indexOf(' ', line.indexOf(' ', start) + 1))
    if (!wanted.has(key)) continue
    const uid = line.slice(start).split(/ +/, 7)[6]
    if (uid !== undefined && /^\d{1,10}$/.test(uid)) found.set(key, Number(uid))
  }
}

/** How the kernel writes the other end of the connection: IPv4 also as a program with an IPv6 socket has it (Java). */
function keysOf({ localAddress = '', localPort, remoteAddress = '', remotePort }: Ends): string[] {
  if (localPort === undefined || remotePort === undefined) return []
  const [here, there] = [unmapped(localAddress), unmapped(remoteAddress)]
  const ends = (write: (address: string) => string) =>
    `${write(there)}:${port(remotePort)} ${write(here)}:${port(localPort)}`
  if (isIPv4(here) && isIPv4(there)) return [ends(hex4), ends((address) => MAPPED + hex4(address))]
  return here === '::1' && there === '::1' ? [ends(() => LOOPBACK_6)] : []
}

const isLittleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1
const ordered = (bytes: Buffer) =>
  Buffer.from(isLittleEndian ? bytes.toReversed() : bytes)
    .toString('hex')
    .toUpperCase()
const hex4 = (address: string) => ordered(Buffer.from(address.split('.').map(Number)))
const port = (number: number) => number.toString(16).toUpperCase().padStart(4, '0')
const MAPPED = `${'0'.repeat(16)}${ordered(Buffer.of(0, 0, 0xff, 0xff))}`
const LOOPBACK_6 = `${'0'.repeat(24)}${ordered(Buffer.of(0, 0, 0, 1))}`

/** One for this process, so that all listeners share what is read. */
export const localUsers = new LocalUsers()
