import { closeSync, openSync, readSync } from 'node:fs'
import { endianness } from 'node:os'

/*
 * The kernel lists TCP listeners before all other sockets, so only the beginning of the list is read:
 *
 *     sl  local_address rem_address   st tx_queue:rx_queue …
 *      0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 …     0A: listening; rx_queue: connections that nobody has accepted yet
 */
const LISTS = { v4: '/proc/self/net/tcp', v6: '/proc/self/net/tcp6' } as const
const LINE = /^ *\d+: ([0-9A-F]+:[0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} ([0-9A-F]{2}) [0-9A-F]+:([0-9A-F]+).*\n?/gm
const LISTENING = '0A'
const ANY = { v4: '00000000', v6: '0'.repeat(32) } as const

/** A look counts for this long. Smaller looks more often, larger shows a listener that has just been closed. */
const FRESH_MS = 1_000
/** With many listeners a look is dear: then it counts for longer, so that looking takes a thousandth of the processor, up to this. */
const COST = 1_000
const MOST_MS = 4_000
/** A longer list is not read to its end: then nothing is known. */
const MAX_BYTES = 4 * 1024 * 1024

type Family = keyof typeof LISTS

/** Pieces of the kernel's list. @throws where there is none */
type ReadList = (family: Family) => Iterable<string>

/** Which TCP ports of this machine have a listener that accepts what arrives, without disturbing any program. */
export class Listening {
  readonly #v4: Listeners
  readonly #v6: Listeners

  constructor({ read = readList, now = () => performance.now() }: { read?: ReadList; now?: () => number } = {}) {
    this.#v4 = new Listeners(() => read('v4'), now)
    this.#v6 = new Listeners(() => read('v6'), now)
  }

  /**
   * True when a program listens there and accepts what arrives; false when not so, or when it is not known. What waits at one look may
   * have come a moment before; what waits at the next one too is not accepted.
   */
  keepsUp(host: string, port: number): boolean {
    const address = hexOf(host)
    if (address === undefined) return false
    const suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
    const isV4 = address.length === ANY.v4.length
    if (isV4 && [address, ANY.v4].some((local) => this.#v4.keepsUp(local + suffix))) return true
    // a socket of IPv6 for all addresses may have both
    return [...(isV4 ? [] : [address]), ANY.v6].some((local) => this.#v6.keepsUp(local + suffix))
  }
}

/** One of the two lists, read when somebody asks. */
class Listeners {
  readonly #read: () => Iterable<string>
  readonly #now: () => number
  /** By address and port: whether connections wait, and whether they did at the look before. */
  #found: ReadonlyMap<string, Backlog> = new Map()
  #until = -Infinity

  constructor(read: () => Iterable<string>, now: () => number) {
    this.#read = read
    this.#now = now
  }

  keepsUp(local: string): boolean {
    this.#readAgain()
    const backlog = this.#found.get(local)
    return backlog !== undefined && !(backlog.waits && backlog.waited)
  }

  #readAgain(): void {
    const startedAt = this.#now()
    if (startedAt < this.#until) return
    this.#found = this.#scan()
    const endedAt = this.#now()
    this.#until = endedAt + Math.min(Math.max(FRESH_MS, COST * (endedAt - startedAt)), MOST_MS)
  }

  #scan(): Map<string, Backlog> {
    const found = new Map<string, Backlog>()
    let bytes = 0
    let rest = '' // of a line
    try {
      for (const piece of this.#read()) {
        bytes += piece.length
        if (bytes > MAX_BYTES) return new Map()
        const text = rest + piece
        for (const [line, local = '', state, waiting] of text.matchAll(LINE)) {
          if (!line.endsWith('\n')) break
          if (state !== LISTENING) return found // the listeners are over
          const waits = Number.parseInt(waiting ?? '1', 16) > 0 || found.get(local)?.waits === true
          found.set(local, { waits, waited: this.#found.get(local)?.waits === true })
        }
        rest = text.slice(text.lastIndexOf('\n') + 1)
      }
    } catch {
      return new Map() // not Linux, or no /proc
    }
    return found
  }
}

interface Backlog {
  waits: boolean
  waited: boolean
}

/** 127.0.0.1 is 0100007F; only addresses of the loopback interface, which no other machine or namespace has. */
function hexOf(host: string): string | undefined {
  if (endianness() !== 'LE') return undefined
  if (host === '::1') return '00000000000000000000000001000000'
  const parts = /^127\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(host)?.slice(1).map(Number)
  if (parts === undefined || parts.some((part) => part > 255)) return undefined
  return [...parts.toReversed(), 127].map((part) => part.toString(16).toUpperCase().padStart(2, '0')).join('')
}

function* readList(family: Family): Iterable<string> {
  const file = openSync(LISTS[family], 'r')
  try {
    for (let length = readSync(file, buffer); length > 0; length = readSync(file, buffer))
      yield buffer.toString('latin1', 0, length)
  } finally {
    closeSync(file)
  }
}

/** The kernel gives a page of whole lines at a time. */
const buffer = Buffer.allocUnsafeSlow(4_096)
