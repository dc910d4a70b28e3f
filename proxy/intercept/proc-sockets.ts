import { readFile } from 'node:fs/promises'
import { unmapped } from '../../src/core/kit/host-port.ts'
import { parseIPv4, parseIPv6 } from '../../src/core/model/address.ts'

/*
 * Sockets as /proc/net lists them: every connection and every UDP socket of this network namespace, with the user that made it and
 * its inode, by which the process that has it is found (proc-processes.ts).
 *
 *     sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid  timeout inode
 *      0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 26413
 */

export interface Endpoint {
  readonly address: string
  readonly port: number
}

/** A connection as the process that opened it sees it. */
export interface Connection {
  readonly local: Endpoint
  readonly remote: Endpoint
}

/** A socket that some process has open. */
export interface OpenSocket {
  readonly inode: string
  /** Who made it, as this agent's user namespace calls it. */
  readonly uid: number
}

/** The caller's socket of each connection; `undefined`: it is closed. */
export async function connectionSockets(connections: readonly Connection[]): Promise<(OpenSocket | undefined)[]> {
  const v4 = await readFile('/proc/self/net/tcp', 'latin1')
  const found = connections.map(({ local, remote }) => socketIn(v4, procAddress4(local), procAddress4(remote)))
  if (found.every((socket) => socket !== undefined)) return found
  // IPv6, and programs that reach IPv4 through an IPv6 socket (Java).
  const v6 = await readFile('/proc/self/net/tcp6', 'latin1').catch(() => '')
  return connections.map(({ local, remote }, i) => found[i] ?? socketIn(v6, procAddress6(local), procAddress6(remote)))
}

/** Every UDP socket of the machine, by its port. */
export async function datagramSockets(): Promise<Map<number, OpenSocket[]>> {
  const byPort = new Map<number, OpenSocket[]>()
  for (const row of (await tables('udp')).flatMap(rowsOf)) {
    const others = byPort.get(row.port)
    if (others === undefined) byPort.set(row.port, [row])
    else others.push(row)
  }
  return byPort
}

/** The inode of the socket of another program that takes what is sent to this port of any address. */
export async function wildcardInode(port: number, protocol: 'tcp' | 'udp'): Promise<string | undefined> {
  const rows = (await tables(protocol)).flatMap(rowsOf)
  return rows.find((row) => row.port === port && /^0+$/.test(row.address) && OPEN[protocol] === row.state)?.inode
}

/** `LISTEN` of TCP; a UDP socket that is not connected is `CLOSE` (include/net/tcp_states.h). */
const OPEN = { tcp: '0A', udp: '07' }

function tables(protocol: 'tcp' | 'udp'): Promise<string[]> {
  return Promise.all(
    [protocol, `${protocol}6`].map((table) => readFile(`/proc/self/net/${table}`, 'latin1').catch(() => '')),
  )
}

export interface Row extends OpenSocket {
  address: string
  port: number
  state: string
}

/** The sockets in a table of /proc/net; those that no process has open any more have no inode, and are left out. */
export function rowsOf(table: string): Row[] {
  return table
    .split('\n')
    .slice(1)
    .flatMap((line) => {
      const fields = line.trim().split(/ +/, 10)
      const [address = '', hexPort = ''] = fields[1]?.split(':') ?? []
      const port = Number.parseInt(hexPort, 16)
      const [state, uid, inode] = [fields[3], uidOf(fields[7]), fields[9]]
      if (Number.isNaN(port) || state === undefined || inode === undefined || inode === '0') return []
      return uid === undefined ? [] : [{ address, port, state, uid, inode }]
    })
}

/** The socket with these ends, as the table writes them. */
export function socketIn(table: string, local: string | undefined, remote: string | undefined): OpenSocket | undefined {
  if (local === undefined || remote === undefined) return undefined
  const start = table.indexOf(` ${local} ${remote} `)
  if (start < 0) return undefined
  const line = table.slice(start + 1, table.indexOf('\n', start))
  const fields = line.split(/ +/, 9)
  const [uid, inode] = [uidOf(fields[6]), fields[8]]
  return uid === undefined || inode === undefined || inode === '0' ? undefined : { inode, uid }
}

function uidOf(field: string | undefined): number | undefined {
  return field !== undefined && /^\d{1,10}$/.test(field) ? Number(field) : undefined
}

/** The kernel prints each 32-bit word as the machine holds it: little-endian on all that Node runs on but s390x. */
export function procAddress4({ address, port }: Endpoint): string | undefined {
  const value = parseIPv4(unmapped(address))
  return value === undefined ? undefined : `${word(value)}:${hex(port, 4)}`
}

export function procAddress6({ address, port }: Endpoint): string | undefined {
  const parts = parseIPv6(parseIPv4(address) === undefined ? address : `::ffff:${address}`)
  if (parts === undefined) return undefined
  const words = [0, 2, 4, 6].map((i) => word((parts[i] as number) * 0x10000 + (parts[i + 1] as number)))
  return `${words.join('')}:${hex(port, 4)}`
}

function word(value: number): string {
  const bytes = Buffer.allocUnsafe(4)
  bytes.writeUInt32BE(value, 0)
  return hex(IS_LITTLE_ENDIAN ? bytes.readUInt32LE(0) : value, 8)
}

const IS_LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1

function hex(value: number, digits: number): string {
  return value.toString(16).toUpperCase().padStart(digits, '0')
}
