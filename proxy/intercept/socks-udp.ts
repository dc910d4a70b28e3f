import type { RemoteInfo, Socket as UdpSocket } from 'node:dgram'
import type { Socket } from 'node:net'
import { Admission } from '../../src/core/kit/admission.ts'
import { type Ends, endsOf } from '../../src/core/kit/local-users.ts'
import { printIPv4, printIPv6 } from '../../src/core/model/address.ts'
import { boundSocket, maySend } from '../socket/udp-socket.ts'
import type { Caller, DatagramIntent, DatagramSink } from '../flow/flow.ts'
import type { ProxyParts } from './proxy-listener.ts'
import { targetOf } from './target-of.ts'

/*
 * UDP ASSOCIATE (RFC 1928 §7): a UDP socket for one client, which lives as long as the TCP connection that requested it.
 *
 *    0      2      3      4
 *   ┌──────┬──────┬──────┬───────────┬──────┬─────────┐
 *   │ 0  0 │ frag │ type │ address   │ port │ payload │     both ways: an answer has the header of the question
 *   └──────┴──────┴──────┴───────────┴──────┴─────────┘     type 1: four bytes, 3: length and name, 4: sixteen bytes
 *
 * Fragments (frag ≠ 0) are dropped, as the RFC permits. Only names and VIPs of the mesh are reached (SEC-29). The client is the
 * address and port of the first datagram; if the request named a port, it must be that one.
 */

/**
 * Each costs two descriptors; one more, and the oldest of the user that has most is ended. Larger: programs can leave fewer of them for
 * flows.
 */
const ASSOCIATIONS = 256
/** Destinations of one association; datagrams to more of them are dropped. */
const DESTINATIONS = 64

/** The associations of one SOCKS listener. */
export class Associations {
  readonly #parts: ProxyParts
  readonly #open = new Set<Association>()
  readonly #admission = new Admission({ most: ASSOCIATIONS }, Number.POSITIVE_INFINITY)

  constructor(parts: ProxyParts) {
    this.#parts = parts
  }

  get size(): number {
    return this.#open.size
  }

  /** The address to which the client must send; `undefined` when there is no descriptor, or no UDP. */
  open(caller: Caller, port: number, control: Socket): { address: string; port: number } | undefined {
    if (this.#parts.onDatagramClient === undefined) return undefined
    const socket = socketBeside(control)
    if (socket === undefined) return undefined
    const client = { address: control.remoteAddress ?? '', port, ends: endsOf(control) }
    const association = new Association(caller, client, socket, this.#parts)
    this.#open.add(association)
    this.#admission.enter(control, control)
    control.once('close', () => {
      this.#open.delete(association)
      association.end()
    })
    control.once('end', () => control.destroySoon())
    control.resume() // nothing more is expected but its end
    association.whenEnded = () => control.destroySoon()
    return socket.address()
  }

  close(): void {
    for (const association of this.#open) association.whenEnded()
  }
}

interface Client {
  readonly address: string
  /** 0: not known yet. */
  port: number
  /** Of the connection that the association belongs to. */
  readonly ends: Ends
}

class Association {
  /** Ends the connection that it belongs to. */
  whenEnded: () => void = () => undefined
  readonly #caller: Caller
  readonly #client: Client
  readonly #socket: UdpSocket
  readonly #parts: ProxyParts
  readonly #flows = new Map<string, DatagramSink>()
  #isClosed = false

  constructor(caller: Caller, client: Client, socket: UdpSocket, parts: ProxyParts) {
    this.#caller = caller
    this.#client = client
    this.#socket = socket
    this.#parts = parts
    socket.on('message', (packet, from) => this.#received(packet, from))
  }

  end(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#socket.close()
    for (const flow of this.#flows.values()) flow.end()
  }

  #received(bytes: Buffer, from: RemoteInfo): void {
    if (!this.#isClient(from)) return
    const packet = readPacket(bytes)
    if (packet === undefined) return
    this.#client.port = from.port // from now on, this port only
    const key = packet.head.toString('latin1')
    const flow = this.#flows.get(key) ?? this.#begin(key, packet)
    flow?.datagram(packet.payload)
  }

  #isClient({ address, port }: RemoteInfo): boolean {
    return address === this.#client.address && (this.#client.port === 0 || port === this.#client.port)
  }

  #begin(key: string, { host, port, head }: Packet): DatagramSink | undefined {
    const { clock, onDatagramClient, metrics } = this.#parts
    if (this.#flows.size >= DESTINATIONS) {
      metrics.flowDatagramsDropped.inc({ reason: 'too-many' })
      return undefined
    }
    const header = Buffer.from(head)
    const flow = onDatagramClient?.({
      from: this.#client.ends,
      port,
      mode: 'socks',
      startedAt: clock.now(),
      intent: this.#wish(host, port),
      answer: (payload) => this.#answer(header, payload),
      ended: () => void this.#flows.delete(key),
    })
    if (flow !== undefined) this.#flows.set(key, flow)
    return flow
  }

  async #wish(host: string, port: number): Promise<DatagramIntent> {
    const found = await targetOf(host, port, this.#parts, 'udp', this.#caller)
    if (found.kind === 'refused') return { kind: 'refused', name: host, reason: found.reason }
    return { kind: 'target', target: found.target, caller: this.#caller }
  }

  #answer(header: Buffer, payload: Buffer): boolean {
    if (this.#isClosed || !maySend(this.#socket, header.length + payload.length)) return false
    this.#socket.send(Buffer.concat([header, payload]), this.#client.port, this.#client.address)
    return true
  }
}

export interface Packet {
  host: string
  port: number
  /** The header as it came, which answers carry too. */
  head: Buffer
  payload: Buffer
}

/** `undefined`: a fragment, or not a packet. */
export function readPacket(bytes: Buffer): Packet | undefined {
  if (bytes.length < 5 || bytes.readUInt16BE(0) !== 0 || bytes[2] !== 0) return undefined
  const address = addressAt(bytes, 3)
  if (address === undefined || bytes.length < address.end + 2) return undefined
  const port = bytes.readUInt16BE(address.end)
  const end = address.end + 2
  if (address.host === '' || port === 0) return undefined
  return { host: address.host, port, head: bytes.subarray(0, end), payload: bytes.subarray(end) }
}

/** The address whose type is at `at` (RFC 1928 §5); `undefined` when the type is unknown, or the address is cut off. */
function addressAt(bytes: Buffer, at: number): { host: string; end: number } | undefined {
  const type = bytes[at]
  const start = at + 1
  const length = type === 1 ? 4 : type === 4 ? 16 : type === 3 ? 1 + (bytes[start] ?? 0) : 0
  const end = start + length
  if (length === 0 || bytes.length < end) return undefined
  if (type === 1) return { host: printIPv4(bytes.readUInt32BE(start)), end }
  if (type === 3) return { host: bytes.toString('latin1', start + 1, end), end }
  return { host: printIPv6(Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(start + i * 2))), end }
}

/** A socket on the address that the client connected to; `undefined` when the client has gone, or no descriptor is left. */
function socketBeside({ localAddress, destroyed }: Socket): UdpSocket | undefined {
  if (localAddress === undefined || destroyed) return undefined
  try {
    return boundSocket({ address: localAddress, port: 0 })
  } catch {
    return undefined
  }
}
