import { randomInt } from 'node:crypto'
import type { Metrics } from '../../../src/core/metrics.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { Channel } from './channel.ts'
import {
  type Address,
  type DatagramPort,
  type Drop,
  DROPS,
  type LinkOptions,
  type SealedEndpoint,
  type SealedLink,
} from './contract.ts'
import { Link, type LinkEndpoint } from './link.ts'
import { MAGIC, MAX_PACKET_BYTES, SEAL_BYTES } from './packet.ts'

export interface SealedUdpOptions {
  self: NodeId
  port: DatagramPort
  /** Never sent to, even if a peer offers it: addresses of our own overlay. */
  exclude?: (host: string) => boolean
  now: () => number
  random?: () => number
  /** For tests and measurements: datagrams per second that make a burst; `Infinity`: never. */
  burstPerSecond?: number
  metrics?: Metrics
  later?: (ms: number, act: () => void) => void
}

/**
 * All sealed datagrams of a node, on one UDP port.
 *
 *     packet ─▶ long enough? ours? ─▶ receiver index ─▶ channel ─▶ opens? ─▶ records
 *                  └── no: counted, never answered (SEC-22, SEC-26) ──┘
 */
export class SealedUdp implements SealedEndpoint, LinkEndpoint {
  readonly self: NodeId
  readonly random: () => number
  readonly now: () => number
  readonly burstPerSecond: number | undefined
  readonly excludes: (host: string) => boolean
  readonly later: (ms: number, act: () => void) => void
  readonly #port: DatagramPort
  readonly #metrics: Metrics | undefined
  readonly #channels = new Map<number, (packet: Buffer, from: Address) => void>()
  readonly #links = new Set<SealedLink>()
  #due: Channel[] = []
  #packet = Buffer.allocUnsafeSlow(MAX_PACKET_BYTES)
  #counted = { packetsOut: 0, packetsIn: 0, sent: 0, received: 0 }
  packetsOut = 0
  packetsIn = 0
  /** Datagrams. */
  sent = 0
  received = 0
  readonly drops: Partial<Record<Drop, number>> = {}
  readonly #countedDrops: Partial<Record<Drop, number>> = {}

  constructor({
    self,
    port,
    now,
    exclude = () => false,
    random = Math.random,
    burstPerSecond,
    metrics,
    later = soon,
  }: SealedUdpOptions) {
    this.self = self
    this.#port = port
    this.now = now
    this.excludes = exclude
    this.later = later
    this.burstPerSecond = burstPerSecond
    this.random = random
    this.#metrics = metrics
  }

  link(options: LinkOptions): SealedLink {
    const link = new Link(options, this)
    this.#links.add(link)
    return link
  }

  /** A UDP packet from anywhere. */
  receive(packet: Buffer, from: Address): void {
    if (packet.length < SEAL_BYTES || packet[0] !== MAGIC) return this.dropped('short', 1)
    const channel = this.#channels.get(packet.readUInt32BE(4))
    if (channel === undefined) return this.dropped('unknown', 1)
    this.packetsIn += 1
    channel(packet, from)
  }

  // ── called by links and channels ──

  register(receive: (packet: Buffer, from: Address) => void): number {
    for (;;) {
      const receiver = randomInt(1, 2 ** 32)
      if (this.#channels.has(receiver)) continue
      this.#channels.set(receiver, receive)
      return receiver
    }
  }

  unregister(receiver: number): void {
    this.#channels.delete(receiver)
  }

  addresses(): string[] {
    return this.#port.addresses()
  }

  ended(link: SealedLink): void {
    this.#links.delete(link)
  }

  readonly mtuTowards = (host: string): Promise<number> => this.#port.mtuTowards(host)

  readonly fragments = (host: string): number => this.#port.fragments(host)

  packetBuffer(): Buffer {
    return this.#packet
  }

  transmit(length: number, to: Address, ttl?: number): boolean {
    const fate = this.#port.send(this.#packet, length, to, ttl)
    if (fate === 'queued') this.#packet = Buffer.allocUnsafeSlow(MAX_PACKET_BYTES) // the system still reads the old one
    if (fate !== 'full') this.packetsOut += 1
    return fate !== 'full'
  }

  flushLater(channel: Channel): void {
    this.#due.push(channel)
    if (this.#due.length === 1) setImmediate(this.#flush)
  }

  dropped(why: Drop, datagrams: number): void {
    if (datagrams === 0) return
    this.drops[why] = (this.drops[why] ?? 0) + datagrams // passed to the metrics by `count`: a flood must stay cheap
  }

  count(): void {
    if (this.#metrics === undefined) return
    const { packetsOut, packetsIn, sent, received } = this
    const { sealedDropped, sealedPackets, tunnelDatagrams } = this.#metrics
    sealedPackets.labels('out').inc(packetsOut - this.#counted.packetsOut)
    sealedPackets.labels('in').inc(packetsIn - this.#counted.packetsIn)
    tunnelDatagrams.labels('sealed', 'sent').inc(sent - this.#counted.sent)
    tunnelDatagrams.labels('sealed', 'received').inc(received - this.#counted.received)
    this.#counted = { packetsOut, packetsIn, sent, received }
    for (const why of DROPS) {
      const drops = this.drops[why] ?? 0
      sealedDropped.labels(why).inc(drops - (this.#countedDrops[why] ?? 0))
      this.#countedDrops[why] = drops
    }
  }

  readonly #flush = (): void => {
    const due = this.#due
    this.#due = []
    for (const channel of due) channel.flush()
  }
}

function soon(ms: number, act: () => void): void {
  setTimeout(act, ms).unref()
}
