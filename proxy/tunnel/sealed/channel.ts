import { MAX_DATAGRAM } from '../wire/frame.ts'
import type { Aead } from './aead.ts'
import type { Address, Drop } from './contract.ts'
import { ForgeryGuard } from './forgery-guard.ts'
import { piecesOf, writePiece } from './fragments.ts'
import { Opener } from './opener.ts'
import {
  DATAGRAM_BYTES,
  MAX_PACKET_BYTES,
  PROBE_BYTES,
  RECORD,
  readRecords,
  SEAL_BYTES,
  writeRecord,
  type RecordSink,
} from './packet.ts'
import { Sealer } from './sealer.ts'
import { UdpPath, type UdpPathOptions } from './udp-path.ts'

/** What a channel needs of the endpoint. */
export interface ChannelEndpoint {
  now(): number
  random(): number
  mtuTowards: UdpPathOptions['mtuTowards']
  fragments: UdpPathOptions['fragments']
  /** The buffer that the next packet is sealed into. */
  packetBuffer(): Buffer
  /** Sends the first `length` bytes of that buffer; false when it was dropped. */
  transmit(length: number, to: Address, ttl?: number): boolean
  /** Calls `act` once, after `ms`. */
  later(ms: number, act: () => void): void
  /** `flush` is to be called at the end of this turn of the event loop. */
  flushLater(channel: Channel): void
  dropped(why: Drop, datagrams: number): void
  /** Datagrams sent, and received whole. */
  sent: number
  received: number
}

export interface ChannelOptions {
  sending: Buffer
  receiving: Buffer
  aead: Aead
  /** The peer's receiver index, which our packets carry. */
  receiver: number
  /** There are NATs between, which must be opened from both sides. */
  isPunching?: boolean
  datagram: (stream: number, payload: Buffer) => void
  fragment: (stream: number, body: Buffer) => void
  /** Too many forged packets arrive: the peer is to send none for this long. */
  flooded?: (ms: number) => void
}

/**
 * Both directions of sealed datagrams under the keys of one carrier.
 *
 *     send ─▶ records gather in `#plain` ─(full, or the turn ends)─▶ Sealer ─▶ UDP
 *     UDP ─▶ Opener ─▶ records ─▶ datagram | fragment | probe: answered to its source address | answer: to the UDP path
 *
 * A datagram waits until the end of the event-loop turn at most. Small ones share a packet, and so one AEAD and one system call.
 */
export class Channel implements RecordSink {
  readonly udpPath: UdpPath
  readonly aead: Aead
  readonly #endpoint: ChannelEndpoint
  readonly #options: ChannelOptions
  readonly #sealer: Sealer
  readonly #opener: Opener
  readonly #guard = new ForgeryGuard()
  readonly #probedUnder = new Map<number, number>()
  #plain = EMPTY
  #fill = 0
  #gathered = 0
  #nextDatagram = 0
  #isDue = false
  #from: Address = NO_ADDRESS
  #size = 0

  constructor(options: ChannelOptions, endpoint: ChannelEndpoint) {
    this.#options = options
    this.#endpoint = endpoint
    const { sending, receiving, aead } = options
    this.aead = aead
    this.#sealer = new Sealer({ secret: sending, aead }, options.receiver, endpoint.now())
    this.#opener = new Opener({ secret: receiving, aead })
    this.udpPath = new UdpPath({
      probe: (id, size, to, ttl) => this.#probe(id, size, to, ttl),
      isPunching: options.isPunching === true,
      mtuTowards: endpoint.mtuTowards,
      fragments: endpoint.fragments,
      random: () => endpoint.random(),
    })
  }

  get isOpen(): boolean {
    return this.udpPath.state === 'open' && !this.#sealer.isExhausted
  }

  /** Sends the whole datagram; false when it was dropped. Only while `isOpen`. */
  send(stream: number, payload: Buffer): boolean {
    const { length } = payload
    if (length > MAX_DATAGRAM) return false
    const room = this.udpPath.packetBytes - SEAL_BYTES
    if (DATAGRAM_BYTES + length > room) return this.#sendPieces(stream, payload)
    if (this.#fill + DATAGRAM_BYTES + length > room) this.flush()
    if (this.#plain.length === 0) this.#plain = Buffer.allocUnsafeSlow(MAX_PACKET_BYTES)
    const plain = this.#plain
    const at = writeRecord(plain, this.#fill, RECORD.DATAGRAM, 4 + length)
    plain[at] = stream >>> 24
    plain[at + 1] = stream >>> 16
    plain[at + 2] = stream >>> 8
    plain[at + 3] = stream
    plain.set(payload, at + 4)
    this.#fill = at + 4 + length
    this.#gathered += 1
    this.#endpoint.sent += 1
    if (!this.#isDue) {
      this.#isDue = true
      this.#endpoint.flushLater(this)
    }
    return true
  }

  /** Sends what has gathered. */
  flush(): void {
    this.#isDue = false
    if (this.#fill === 0) return
    const plain = this.#plain.subarray(0, this.#fill)
    const gathered = this.#gathered
    this.#fill = 0
    this.#gathered = 0
    const to = this.udpPath.address
    if (to === undefined || !this.#seal(plain, to)) this.#endpoint.dropped('full', gathered)
  }

  /** A packet with our receiver index; nothing about it is trusted before it has been opened. */
  receive(packet: Buffer, from: Address): void {
    const now = this.#endpoint.now()
    if (this.#guard.isPaused(now)) return this.#endpoint.dropped('paused', 1)
    const plain = this.#opener.open(packet)
    if (plain === undefined) return this.#drop(this.#opener.drop, now)
    this.#from = from
    this.#size = packet.length
    if (this.#opener.isNewest) this.udpPath.receivedFrom(from, now)
    if (!readRecords(plain, this)) this.#endpoint.dropped('malformed', 1)
  }

  /** Datagrams go in frames for this long: the peer does not open packets, or we do not. */
  suspend(ms: number): void {
    this.udpPath.suspend(this.#endpoint.now() + ms)
  }

  tick(now: number): void {
    this.#sealer.tick(now)
    this.udpPath.tick(now)
  }

  // ── RecordSink ──

  datagram(stream: number, payload: Buffer): void {
    this.#endpoint.received += 1
    this.#options.datagram(stream, payload)
  }

  fragment(stream: number, body: Buffer): void {
    this.#options.fragment(stream, body)
  }

  /** The answer goes to the source of the probe, and is never longer than it. */
  probe(id: number): void {
    const plain = Buffer.allocUnsafe(PROBE_BYTES)
    plain.writeUInt32BE(id, writeRecord(plain, 0, RECORD.ANSWER, 4))
    if (PROBE_BYTES + SEAL_BYTES > this.#size) return
    this.#size = 0 // one answer per packet, however many probes it carries
    this.#seal(plain, this.#from)
  }

  answer(id: number): void {
    const epoch = this.#probedUnder.get(id)
    if (epoch === undefined) return
    this.#probedUnder.delete(id)
    this.#sealer.confirm(epoch)
    this.udpPath.answered(id, this.#endpoint.now())
  }

  #drop(why: Drop, now: number): void {
    this.#endpoint.dropped(why, 1)
    const pauseMs = why === 'forged' ? this.#guard.forged(now) : undefined
    if (pauseMs === undefined) return
    this.suspend(pauseMs)
    this.#options.flooded?.(pauseMs)
  }

  // ── sending ──

  #sendPieces(stream: number, payload: Buffer): boolean {
    this.flush() // keeps the order
    const to = this.udpPath.address
    if (to === undefined) return false
    const { count } = piecesOf(payload.length, this.udpPath.packetBytes)
    const datagram = this.#nextDatagram
    this.#nextDatagram = (this.#nextDatagram + 1) >>> 0
    if (this.#plain.length === 0) this.#plain = Buffer.allocUnsafeSlow(MAX_PACKET_BYTES)
    for (let index = 0; index < count; index++) {
      const size = writePiece(this.#plain, payload, { stream, datagram, index, count })
      if (!this.#seal(this.#plain.subarray(0, size), to)) {
        this.#endpoint.dropped('full', 1)
        return false // without this piece the others are useless
      }
    }
    this.#endpoint.sent += 1
    return true
  }

  #probe(id: number, size: number, to: Address, ttl?: number): void {
    const plain = Buffer.alloc(size - SEAL_BYTES)
    plain.writeUInt32BE(id, writeRecord(plain, 0, RECORD.PROBE, 4))
    if (this.#probedUnder.size >= MAX_PROBES) this.#probedUnder.delete(this.#probedUnder.keys().next().value!)
    this.#probedUnder.set(id, this.#sealer.epoch)
    this.#seal(plain, to, ttl)
  }

  #seal(plain: Buffer, to: Address, ttl?: number): boolean {
    if (this.#sealer.isExhausted) return false
    return this.#endpoint.transmit(this.#sealer.seal(plain, this.#endpoint.packetBuffer()), to, ttl)
  }
}

const MAX_PROBES = 64
const EMPTY = Buffer.alloc(0)
const NO_ADDRESS: Address = { host: '', port: 0 }
