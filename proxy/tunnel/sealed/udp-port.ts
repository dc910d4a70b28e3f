import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { isIPv6 } from 'node:net'
import { interfacesHere } from '../../../src/core/kit/interfaces.ts'
import { sourceTowards } from '../../../src/core/kit/source-towards.ts'
import { MeshError } from '../../../src/core/errors.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { Address, DatagramPort } from './contract.ts'

export interface UdpPortOptions {
  host: string
  /** Tried first; any other when it is taken. */
  port: number
  /** Where others may send to, given the port that was bound. */
  addresses: (port: number) => string[]
  onPacket: (packet: Buffer, from: Address) => void
}

/** The kernel may give less (`net.core.rmem_max`). Smaller: a burst is lost while the event loop is busy. */
const SOCKET_BYTES = 4 * 1024 * 1024
/** Bytes that wait in Node because the system takes no more; further packets are dropped. */
const MAX_QUEUED_BYTES = 256 * 1024
const ETHERNET_MTU = 1_500
/** RFC 1700. */
const TTL = 64

/**
 * The agent's UDP port: one socket for IPv4 and one for IPv6, under the same number where possible.
 *
 * Node looks every destination up before it sends, even a numeric one, and defers the send; `lookup` below answers at once,
 * which halves the cost of a packet. There is no callback: a packet that the system does not take is lost, as packets may be.
 */
export class UdpPort implements DatagramPort, AsyncDisposable {
  readonly #v4: Socket | undefined
  readonly #v6: Socket | undefined
  readonly #addresses: (port: number) => string[]
  #isClosed = false

  private constructor(v4: Socket | undefined, v6: Socket | undefined, addresses: (port: number) => string[]) {
    this.#v4 = v4
    this.#v6 = v6
    this.#addresses = addresses
  }

  /** @throws MeshError LISTEN_FAILED */
  static async start({ host, port, addresses, onPacket }: UdpPortOptions, log: Log): Promise<UdpPort> {
    const isAny = host === '0.0.0.0' || host === '::'
    const open = async (type: 'udp4' | 'udp6', on: string, port: number): Promise<Socket> => {
      const socket = await bind(type, on, port).catch((error: unknown) => {
        if (port === 0) throw error
        return bind(type, on, 0)
      })
      socket.on('error', (error) => log.warn('the socket for datagrams failed', { error }))
      socket.on('message', (packet: Buffer, from: RemoteInfo) =>
        onPacket(packet, { host: from.address, port: from.port }),
      )
      return socket
    }
    try {
      if (!isAny) {
        const socket = await open(isIPv6(host) ? 'udp6' : 'udp4', host, port)
        return isIPv6(host) ? new UdpPort(undefined, socket, addresses) : new UdpPort(socket, undefined, addresses)
      }
      const v4 = await open('udp4', '0.0.0.0', port)
      const v6 = await open('udp6', '::', v4.address().port).catch(() => undefined) // there are machines without IPv6
      return new UdpPort(v4, v6, addresses)
    } catch (cause) {
      throw new MeshError('LISTEN_FAILED', { address: `${host}:${port}/udp` }, { cause })
    }
  }

  get port(): number {
    return (this.#v4 ?? this.#v6!).address().port
  }

  addresses(): string[] {
    const v6 = this.#v6?.address().port
    return this.#addresses(this.port)
      .filter((address) => (address.startsWith('[') ? v6 !== undefined : this.#v4 !== undefined))
      .map((address) => (address.startsWith('[') ? address.replace(/\d+$/, String(v6)) : address))
  }

  send(bytes: Buffer, length: number, { host, port }: Address, ttl?: number): 'sent' | 'queued' | 'full' {
    const socket = host.includes(':') ? this.#v6 : this.#v4
    if (socket === undefined || this.#isClosed || socket.getSendQueueSize() > MAX_QUEUED_BYTES) return 'full'
    // packets that wait in the queue would get this TTL too, so it is set only when none waits
    const isShort = ttl !== undefined && socket.getSendQueueCount() === 0
    if (isShort) socket.setTTL(ttl)
    socket.send(bytes, 0, length, port, host)
    if (isShort) socket.setTTL(TTL)
    return socket.getSendQueueCount() === 0 ? 'sent' : 'queued'
  }

  async mtuTowards(host: string): Promise<number> {
    const own = await sourceTowards(host).catch(() => undefined)
    const name = Object.entries(interfacesHere()).find(([, all]) => all?.some(({ address }) => address === own))?.[0]
    if (name === undefined) return ETHERNET_MTU
    const text = await readFile(`/sys/class/net/${name}/mtu`, 'latin1').catch(() => '')
    return Number.parseInt(text, 10) || ETHERNET_MTU
  }

  fragments(host: string): number {
    return host.includes(':') ? counterIn('/proc/net/snmp6', /^Ip6FragCreates\s+(\d+)/m) : ipFragments()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    for (const socket of [this.#v4, this.#v6]) if (socket !== undefined) await closed(socket)
  }
}

function bind(type: 'udp4' | 'udp6', address: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createSocket({
      type,
      ipv6Only: type === 'udp6',
      recvBufferSize: SOCKET_BYTES,
      sendBufferSize: SOCKET_BYTES,
      lookup: (host, _, found) => found(null, host, type === 'udp6' ? 6 : 4),
    })
    socket.once('error', (error) => {
      socket.close()
      reject(error)
    })
    socket.bind({ address, port, exclusive: true }, () => {
      socket.removeAllListeners('error')
      resolve(socket)
    })
  })
}

function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.close(() => resolve()))
}

/** From `/proc/net/snmp`, which has the names of the columns in one line and the counts in the next. */
function ipFragments(): number {
  const [names = [], counts = []] = textOf('/proc/net/snmp')
    .split('\n')
    .filter((line) => line.startsWith('Ip:'))
    .map((line) => line.split(' '))
  return Number(counts[names.indexOf('FragCreates')] ?? 0)
}

function counterIn(path: string, line: RegExp): number {
  return Number(line.exec(textOf(path))?.[1] ?? 0)
}

/** Empty where there is no such file: on other systems, or in a sandbox. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}
