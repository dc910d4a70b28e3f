import { readFile } from 'node:fs/promises'
import { unmapped } from '../../src/core/kit/host-port.ts'
import { parseIPv4, parseIPv6 } from '../../src/core/model/address.ts'

/*
 * Sockets as /proc/net lists them: every connection and every UDP socket of this network namespace, with its inode, by which
 * the process that has it is found (proc-processes.ts).
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

/** The inode of each connection; `undefined`: it is closed. */
export async function connectionInodes(connections: readonly Connection[]): Promise<(string | undefined)[]> {
  const v4 = await readFile('/proc/self/net/tcp', 'latin1')
  const inodes = connections.map(({ local, remote }) => inodeIn(v4, procAddress4(local), procAddress4(remote)))
  if (inodes.every((inode) => inode !== undefined)) return inodes
  // IPv6, and programs that reach IPv4 through an IPv6 socket (Java).
  const v6 = await readFile('/proc/self/net/tcp6', 'latin1').catch(() => '')
  return connections.map(({ local, remote }, i) => inodes[i] ?? inodeIn(v6, procAddress6(local), procAddress6(remote)))
}

/** The inodes of every UDP socket of the machine, by its port. */
export async function datagramInodes(): Promise<Map<number, string[]>> {
  const byPort = new Map<number, string[]>()
  for (const { port, inode } of (await tables('udp')).flatMap(rowsOf)) {
    const others = byPort.get(port)
    if (others === undefined) byPort.set(port, [inode])
    else others.push(inode)
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

interface Row {
  address: string
  port: number
  state: string
  inode: string
}

function rowsOf(table: string): Row[] {
  return table
    .split('\n')
    .slice(1)
    .flatMap((line) => {
      const fields = line.trim().split(/ +/, 10)
      const [address = '', hexPort = ''] = fields[1]?.split(':') ?? []
      const port = Number.parseInt(hexPort, 16)
      const [state, inode] = [fields[3], fields[9]]
      if (Number.isNaN(port) || state === undefined || inode === undefined || inode === '0') return []
      return [{ address, port, state, inode }]
    })
}

function inodeIn(table: string, local: string | undefined, remote: string | undefined): string | undefined {
  if (local === undefined || remote === undefined) return undefined
  const start = table.indexOf(` ${local} ${remote} `)
  if (start < 0) return undefined
  const line = table.slice(start + 1, table.indexOf('\n', start))
  const inode = line.split(/ +/, 9)[8]
  return inode === undefined || inode === '0' ? undefined : inode
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
