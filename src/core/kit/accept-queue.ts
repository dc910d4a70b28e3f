import { closeSync, openSync, readSync } from 'node:fs'
import { isIPv4 } from 'node:net'
import { procAddressOf } from './local-users.ts'

/*
 * How many connections a program of this machine has not accepted yet. The kernel writes it beside each listening socket, where others
 * have what waits to be read, and it lists those sockets first, so that only the beginning of the table is read:
 *
 *     sl  local_address rem_address   st tx_queue:rx_queue
 *      5: 0100007F:98D3 00000000:0000 0A 00000000:0000012C          300 wait at 127.0.0.1:39123
 */

/** The kernel writes a page at a time, 27 rows, in about 0.1 ms. Smaller: a listener among more than so many is not found. */
const PAGES = 64
const page = Buffer.allocUnsafeSlow(4_096)
const LISTEN = '0A'

/** `undefined`: no program of this machine listens there, or more listen than are looked at. */
export function acceptQueueAt({ host, port }: { readonly host: string; readonly port: number }): number | undefined {
  return isIPv4(host)
    ? (queueIn('/proc/self/net/tcp', host, port) ?? queueIn('/proc/self/net/tcp6', '::', port))
    : queueIn('/proc/self/net/tcp6', host, port)
}

function queueIn(table: string, host: string, port: number): number | undefined {
  const wanted = listenersAt(host, port)
  let [rest, count] = ['', undefined as number | undefined]
  try {
    const file = openSync(table, 'r')
    try {
      for (let pages = 0; pages < PAGES; pages++) {
        const bytes = readSync(file, page)
        const rows = (rest + page.toString('latin1', 0, bytes)).split('\n')
        rest = rows.pop() ?? ''
        for (const row of rows) if (wanted.test(row)) count = (count ?? 0) + lengthIn(row)
        if (bytes === 0 || rows.some((row) => isNoListener(row))) return count
      }
    } finally {
      closeSync(file)
    }
  } catch {
    // no such table: no IPv6; or no descriptor is left
  }
  return count
}

/** Of this address, or of any. */
function listenersAt(host: string, port: number): RegExp {
  const [own, hex] = [procAddressOf(host), port.toString(16).toUpperCase().padStart(4, '0')]
  return new RegExp(`: (?:${own}|0+):${hex} 0+:0000 ${LISTEN} `)
}

function lengthIn(row: string): number {
  return Number.parseInt(/^ *\d+: \S+ \S+ 0A [0-9A-F]+:([0-9A-F]{1,8}) /.exec(row)?.[1] ?? '0', 16)
}

function isNoListener(row: string): boolean {
  const state = /^ *\d+: \S+ \S+ ([0-9A-F]{2}) /.exec(row)?.[1]
  return state !== undefined && state !== LISTEN
}
