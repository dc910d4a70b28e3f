import type { NodeId } from '../../../src/core/model/ids.ts'
import { FRAME } from '../wire/frame.ts'
import { FEATURE } from '../wire/hello.ts'
import { AEAD_NAMES, aeadOf } from './aead.ts'
import { Channel, type ChannelEndpoint } from './channel.ts'
import type { Address, LinkOptions, SealedCarrier, SealedLink } from './contract.ts'
import { Reassembly } from './fragments.ts'
import { carrierSecrets } from './keys.ts'
import { decodeOffer, encodeOffer, encodePause } from './offer.ts'
import { Burst } from './burst.ts'
import { unmapped } from '../../../src/core/kit/host-port.ts'

/** What a link needs of the endpoint. */
export interface LinkEndpoint extends ChannelEndpoint {
  readonly self: NodeId
  /** Packets with the returned receiver index go to this function from now on. */
  register(receive: (packet: Buffer, from: Address) => void): number
  unregister(receiver: number): void
  addresses(): string[]
  /** Whether packets must not be sent to that host. */
  excludes(host: string): boolean
  ended(link: SealedLink): void
  /** Datagrams per second that make a burst; `undefined`: the default of burst.ts. */
  readonly burstPerSecond: number | undefined
  /** Brings the metrics up to date. */
  count(): void
}

/** What was agreed on a carrier: our receiver index, and the channel once the peer has sent its offer too. */
interface Agreed {
  readonly receiver: number
  channel: Channel | undefined
}

/**
 * The sealed datagrams of one session: at most one channel per carrier, set up when either side first has datagrams to send.
 *
 *     send ─▶ no channel: SEALED offer on the best carrier ─▶ the peer's offer ─▶ channel ─▶ its UDP path opens (udp-path.ts)
 *                  └──────── datagrams go in frames until then, and whenever the path is not open ────────┘
 *
 *     carrier lost ─▶ its channel and keys are gone too; the next datagram sets up another, with the address that worked
 */
export class Link implements SealedLink {
  readonly #options: LinkOptions
  readonly #endpoint: LinkEndpoint
  readonly #carriers: SealedCarrier[] = []
  readonly #agreed = new Map<SealedCarrier, Agreed>()
  readonly #reassembly: Reassembly
  readonly #burst: Burst
  #active: Channel | undefined
  #provenAddresses: readonly Address[] = []
  #isSealing = false
  #isClosed = false

  constructor(options: LinkOptions, endpoint: LinkEndpoint) {
    this.#options = options
    this.#endpoint = endpoint
    this.#reassembly = new Reassembly(() => endpoint.now())
    this.#burst = new Burst(endpoint.burstPerSecond)
  }

  get mode(): 'sealed' | 'frames' | 'blocked' {
    if (this.#burst.isOn) return 'frames'
    if (this.#active?.isOpen === true) return 'sealed'
    return this.#active?.udpPath.isBlocked === true ? 'blocked' : 'frames'
  }

  get sealedWith(): string | undefined {
    return this.mode === 'sealed' && this.#active !== undefined ? AEAD_NAMES[this.#active.aead] : undefined
  }

  send(stream: number, payload: Buffer): boolean | undefined {
    const channel = this.#active ?? this.#begin()
    if (channel === undefined) return undefined
    this.#burst.sent()
    const now = this.#endpoint.now()
    channel.udpPath.wanted(now)
    const isPathGood = channel.isOpen && !channel.udpPath.isDoubtful(now)
    this.#isSealing = isPathGood && !this.#burst.isOn && (this.#isSealing || this.#areFramesSent)
    return this.#isSealing ? channel.send(stream, payload) : undefined
  }

  /** No datagram waits in a frame, so that sealed ones overtake none. */
  get #areFramesSent(): boolean {
    return this.#carriers.every(({ outbox }) => outbox.datagrams.isEmpty)
  }

  attached(carrier: SealedCarrier): void {
    this.#carriers.push(carrier)
  }

  detached(carrier: SealedCarrier): void {
    const at = this.#carriers.indexOf(carrier)
    if (at >= 0) this.#carriers.splice(at, 1)
    const agreed = this.#agreed.get(carrier)
    if (agreed === undefined) return
    this.#agreed.delete(carrier)
    this.#endpoint.unregister(agreed.receiver)
    if (agreed.channel === undefined || agreed.channel !== this.#active) return
    this.#provenAddresses = this.#active.udpPath.candidates.slice(0, 2)
    this.#active = this.#bestChannel()
    if (this.#active === undefined) this.#begin()
  }

  offered(carrier: SealedCarrier, payload: Buffer): void {
    const offer = decodeOffer(payload)
    if (offer === undefined || !this.#canSeal(carrier)) return
    if (offer.kind === 'pause') return this.#agreed.get(carrier)?.channel?.suspend(offer.ms)
    const isAnswer = !this.#agreed.has(carrier)
    const isPunching = carrier.path === 'relayed' || carrier.path === 'punched'
    const agreed = this.#agreed.get(carrier) ?? this.#offer(carrier)
    if (agreed.channel !== undefined) return // there is one offer per carrier and side
    const { sending, receiving } = carrierSecrets(carrier.secrets!, {
      self: this.#endpoint.self,
      peer: this.#options.peer,
      carrier: carrier.number,
    })
    const channel = new Channel(
      {
        sending,
        receiving,
        aead: aeadOf(carrier),
        receiver: offer.receiver,
        isPunching,
        datagram: this.#options.deliver,
        fragment: (stream, body) => this.#fragment(stream, body),
        flooded: (ms) => carrier.outbox.control(FRAME.SEALED, 0, encodePause(agreed.receiver, ms)),
      },
      this.#endpoint,
    )
    agreed.channel = channel
    channel.udpPath.addCandidates(this.#provenAddresses)
    const offered = [...addressBehind(carrier, offer.addresses), ...offer.addresses]
    channel.udpPath.addCandidates(offered.filter(({ host }) => !this.#endpoint.excludes(host)))
    this.#active ??= channel
    const begin = () => channel.udpPath.wanted(this.#endpoint.now()) // our probe shows the peer our address, if no other works
    const rttMs = carrier.keepalive.leastRttMs ?? 0
    // behind NATs both sides must begin at the same moment: the other one does when it gets our answer
    if (isPunching && isAnswer && rttMs > 0) this.#endpoint.later(rttMs / 2, begin)
    else begin()
  }

  tick(now: number): void {
    for (const { channel } of this.#agreed.values()) channel?.tick(now)
    const before = this.#reassembly.dropped
    this.#reassembly.tick(now)
    this.#endpoint.dropped('fragment', this.#reassembly.dropped - before)
    this.#endpoint.count()
    if (this.#carriers.length === 0) return
    let rttMs: number | undefined
    let framesDropped = 0
    for (const { keepalive, outbox } of this.#carriers) {
      rttMs = Math.min(rttMs ?? Number.POSITIVE_INFINITY, keepalive.leastRttMs ?? Number.POSITIVE_INFINITY)
      framesDropped += outbox.datagrams.dropped
    }
    this.#burst.tick(now, { rttMs, framesDropped })
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    for (const { receiver } of this.#agreed.values()) this.#endpoint.unregister(receiver)
    this.#agreed.clear()
    this.#carriers.length = 0
    this.#active = undefined
    this.#endpoint.ended(this)
  }

  /** Makes our offer, unless there is one already. */
  #begin(): Channel | undefined {
    if (this.#agreed.size > 0) return undefined // the answer is on its way
    const suiting = this.#carriers.filter((carrier) => this.#canSeal(carrier) && !carrier.isDraining)
    const carrier = suiting.find(({ path }) => path !== 'relayed') ?? suiting[0]
    if (carrier !== undefined) this.#offer(carrier)
    return undefined
  }

  #offer(carrier: SealedCarrier): Agreed {
    const agreed: Agreed = {
      receiver: this.#endpoint.register((packet, from) => agreed.channel?.receive(packet, from)),
      channel: undefined,
    }
    this.#agreed.set(carrier, agreed)
    carrier.outbox.control(FRAME.SEALED, 0, encodeOffer(agreed.receiver, this.#endpoint.addresses()))
    return agreed
  }

  /** Relayed carriers too: NATs let UDP through more often, so it may go directly where TCP cannot. */
  #canSeal({ secrets, peerFeatures }: SealedCarrier): boolean {
    return secrets !== undefined && (peerFeatures & FEATURE.sealed) !== 0
  }

  #bestChannel(): Channel | undefined {
    const channels = [...this.#agreed.values()].flatMap(({ channel }) => channel ?? [])
    return channels.find(({ isOpen }) => isOpen) ?? channels[0]
  }

  #fragment(stream: number, body: Buffer): void {
    const before = this.#reassembly.dropped
    const whole = this.#reassembly.add(stream, body)
    if (this.#reassembly.dropped > before) this.#endpoint.dropped('fragment', this.#reassembly.dropped - before)
    if (whole === undefined) return
    this.#endpoint.received += 1
    this.#options.deliver(stream, whole)
  }
}

/** The address of the carrier with the port that the peer offers: right when the peer does not know its outside address. */
function addressBehind({ secrets, path }: SealedCarrier, offered: readonly Address[]): Address[] {
  if (path === 'relayed') return [] // that would be the relay
  const host = secrets?.remoteAddress === undefined ? undefined : unmapped(secrets.remoteAddress)
  const port = offered[0]?.port
  return host === undefined || host === '' || port === undefined ? [] : [{ host, port }]
}
