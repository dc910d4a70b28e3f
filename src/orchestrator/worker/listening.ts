import { closeSync, openSync, readSync } from 'node:fs'
import { endianness } from 'node:os'

/*
 * The kernel lists TCP listeners before all other sockets, so only the beginning of the list is read:
 *
 *     sl  local_address rem_address   st tx_queue:rx_queue …
 *      0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 …     0A: listening; rx_queue: connections that nobody has accepted yet
 */
const LISTS = ['/proc/self/net/tcp', '/proc/self/net/tcp6'] as const
const LINE = /^ *\d+: ([0-9A-F]+:[0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} ([0-9A-F]{2}) [0-9A-F]+:([0-9A-F]+)/gm
const LISTENING = '0A'
const ANY = ['00000000', '0'.repeat(32)] as const

/** A look counts for this long. Smaller looks more often, larger shows a listener that has just been closed. */
const FRESH_MS = 1_000
/** With many listeners a look is dear: then it counts for longer, so that looking takes a hundredth of the processor at most. */
const COST = 100
/** A longer list is not read to its end: then nothing is known. */
const MAX_BYTES = 4 * 1024 * 1024

/** Which TCP ports of this machine have a listener that accepts what arrives, without disturbing any program. */
export class Listening {
  readonly #read: () => readonly string[]
  readonly #now: () => number
  /** By address and port: whether connections wait, and whether they did at the look before. */
  #listeners: ReadonlyMap<string, Backlog> = new Map()
  #until = -Infinity

  constructor({
    read = readLists,
    now = () => performance.now(),
  }: { read?: () => readonly string[]; now?: () => number } = {}) {
    this.#read = read
    this.#now = now
  }

  /**
   * True when a program listens there and accepts what arrives; false when not so, or when it is not known. What waits at one look may
   * have come a moment before; what waits at the next one too is not accepted.
   */
  keepsUp(host: string, port: number): boolean {
    const address = hexOf(host)
    if (address === undefined) return false
    this.#readAgain()
    const suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
    const found = [address, ...ANY].map((local) => this.#listeners.get(local + suffix))
    return found.some((backlog) => backlog !== undefined && !(backlog.waits && backlog.waited))
  }

  #readAgain(): void {
    const startedAt = this.#now()
    if (startedAt < this.#until) return
    const listeners = new Map<string, Backlog>()
    for (const list of this.#read()) {
      for (const [, local = '', state, waiting] of list.matchAll(LINE)) {
        if (state !== LISTENING) continue
        const waits = Number.parseInt(waiting ?? '1', 16) > 0 || listeners.get(local)?.waits === true
        listeners.set(local, { waits, waited: this.#listeners.get(local)?.waits === true })
      }
    }
    this.#listeners = listeners
    const endedAt = this.#now()
    this.#until = endedAt + Math.max(FRESH_MS, COST * (endedAt - startedAt))
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

function readLists(): string[] {
  return LISTS.map((path) => {
    try {
      return readListeners(path)
    } catch {
      return '' // not Linux, or no /proc
    }
  })
}

function readListeners(path: string): string {
  const file = openSync(path, 'r')
  try {
    const buffer = Buffer.allocUnsafe(64 * 1024)
    let text = ''
    for (;;) {
      const length = readSync(file, buffer)
      if (length === 0) return text
      text += buffer.toString('latin1', 0, length)
      if (text.length > MAX_BYTES) return ''
      const last = [...text.slice(-1_000).matchAll(LINE)].at(-1)
      if (last !== undefined && last[2] !== LISTENING) return text // the listeners are over
    }
  } finally {
    closeSync(file)
  }
}
