import { readFile } from 'node:fs/promises'
import { isIPv4 } from 'node:net'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { unmapped } from './host-port.ts'

/*
 * Which user of this machine has opened a connection to us, or has sent us a datagram: the kernel writes it beside every connection in
 * /proc/net/tcp and every socket in /proc/net/udp. Reading that costs about 1 ms for 1,000 rows, so it is done only when many are open,
 * once for all that ask, and with a pause of several times as long.
 *
 *     sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid
 *      0: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000
 *
 * A connection is known by both ends. A datagram is known by the port that it came from: a socket may send from any address of the
 * machine (IP_PKTINFO), and need not be connected. Where sockets of several users have that port, nobody is named.
 */

/** Both ends of a connection or UDP flow, as we see it. */
export interface Ends {
  /** Absent: `tcp`. */
  protocol?: 'tcp' | 'udp'
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
const TABLES = {
  tcp: ['/proc/self/net/tcp', '/proc/self/net/tcp6'],
  udp: ['/proc/self/net/udp', '/proc/self/net/udp6'],
}
const SEVERAL = -1

/** Kept, because a closed socket has no addresses any longer. */
export function endsOf({ localAddress, localPort, remoteAddress, remotePort }: Ends): Ends {
  return { localAddress, localPort, remoteAddress, remotePort }
}

/** Whether the other end is on this machine, as far as the addresses tell. */
export function isFromHere({ localAddress = '', remoteAddress = '' }: Ends): boolean {
  const [here, there] = [unmapped(localAddress), unmapped(remoteAddress)]
  return isLoopback(there) || isLoopback(here) || there === here
}

function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.')
}

interface Asked {
  readonly protocol: 'tcp' | 'udp'
  readonly keys: readonly string[]
  readonly resolve: (uid: number | undefined) => void
}

export class LocalUsers {
  #waiting: Asked[] = []
  #isReading = false

  /** `undefined`: it is closed, comes from another machine, or may be several users'. Whoever asked first is answered first. */
  userOf(ends: Ends): Promise<number | undefined> {
    const { protocol = 'tcp', remotePort } = ends
    const keys = protocol === 'tcp' ? keysOf(ends) : remotePort === undefined ? [] : [port(remotePort)]
    if (keys.length === 0) return Promise.resolve(undefined)
    const { promise, resolve } = Promise.withResolvers<number | undefined>()
    this.#waiting.push({ protocol, keys, resolve })
    if (!this.#isReading) void this.#readAll()
    return promise
  }

  async #readAll(): Promise<void> {
    this.#isReading = true
    while (this.#waiting.length > 0) {
      const waiting = this.#waiting
      this.#waiting = []
      const startedAt = performance.now()
      const [connections, datagrams] = [await answersIn('tcp', waiting), await answersIn('udp', waiting)]
      for (const { protocol, keys, resolve } of waiting) {
        const found = protocol === 'tcp' ? connections : datagrams
        const uid = keys.map((key) => found.get(key)).find((known) => known !== undefined)
        resolve(uid === SEVERAL ? undefined : uid)
      }
      await sleep(Math.max(SHORTEST_PAUSE_MS, PAUSES * (performance.now() - startedAt)), undefined, { ref: false })
    }
    this.#isReading = false
  }
}

/** The users of what is asked for in the tables of one protocol. */
async function answersIn(protocol: 'tcp' | 'udp', waiting: readonly Asked[]): Promise<Map<string, number>> {
  const found = new Map<string, number>()
  const wanted = new Set(waiting.flatMap((asked) => (asked.protocol === protocol ? asked.keys : [])))
  if (wanted.size === 0) return found
  for (const table of TABLES[protocol]) await findUsers(wanted, await readFile(table, 'latin1').catch(() => ''), found)
  return found
}

/**
 * Adds to `found` the user of each wanted connection or port that a table of /proc/net lists. Tens of thousands of rows take tens of
 * milliseconds, so flows have their turn in between.
 */
export async function findUsers(wanted: ReadonlySet<string>, table: string, found: Map<string, number>): Promise<void> {
  for (let at = table.indexOf('\n') + 1, count = 1; at > 0 && at < table.length; count++) {
    if (count % ROWS_AT_ONCE === 0) await nextTurn()
    const end = table.indexOf('\n', at)
    const line = table.slice(at, end < 0 ? undefined : end)
    at = end < 0 ? 0 : end + 1
    const row = line.slice(line.indexOf(': ') + 2)
    const key = [bothEnds(row), ownPort(row)].find((each) => wanted.has(each))
    const text = key === undefined ? undefined : row.split(/ +/, 7)[6]
    if (key === undefined || text === undefined || !/^\d{1,10}$/.test(text)) continue
    const uid = Number(text)
    const isPort = !key.includes(' ') // which several sockets may have
    found.set(key, isPort && (found.get(key) ?? uid) !== uid ? SEVERAL : uid)
  }
}

function bothEnds(row: string): string {
  return row.slice(0, row.indexOf(' ', row.indexOf(' ') + 1))
}

function ownPort(row: string): string {
  return row.slice(row.indexOf(':') + 1, row.indexOf(' '))
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
/** An address as the tables of /proc/net print it; an IPv6 one only where it is loopback or no address. */
export function procAddressOf(address: string): string {
  if (isIPv4(address)) return hex4(address)
  return address === '::1' ? LOOPBACK_6 : '0'.repeat(32)
}

const port = (number: number) => number.toString(16).toUpperCase().padStart(4, '0')
const MAPPED = `${'0'.repeat(16)}${ordered(Buffer.of(0, 0, 0xff, 0xff))}`
const LOOPBACK_6 = `${'0'.repeat(24)}${ordered(Buffer.of(0, 0, 0, 1))}`

/** One for this process, so that all listeners share what is read. */
export const localUsers = new LocalUsers()
