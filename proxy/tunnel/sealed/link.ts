import type { NodeId } from '../../../src/core/model/ids.ts'
import { FRAME } from '../wire/frame.ts'
import { FEATURE } from '../wire/hello.ts'
import { Channel, type ChannelEndpoint } from './channel.ts'
import type { Address, LinkOptions, SealedCarrier, SealedLink } from './contract.ts'
import { Reassembly } from './fragments.ts'
import { carrierSecrets } from './keys.ts'
import { decodeOffer, encodeOffer } from './offer.ts'
import { Burst } from './burst.ts'
import { unmapped } from '../../../src/core/kit/host-port.ts'

/** What a link needs of the room. */
export interface LinkEndpoint extends ChannelEndpoint {
  readonly self: NodeId
  /** Packets with the returned index come to this channel from now on. */
  register(receive: (packet: Buffer, from: Address) => void): number
  unregister(receiver: number): void
  addresses(): string[]
  /** An address that packets must not go to. */
  excludes(host: string): boolean
  ended(link: SealedLink): void
  /** From how many datagrams a second on they go in frames on a near path; `undefined`: as burst.ts says. */
  readonly burstPerSecond: number | undefined
  /** Brings the metrics up to date. */
  count(): void
}

/** A carrier on which an offer was made: its receiver is ours, its channel there once the peer has made its own. */
interface Agreed {
  readonly receiver: number
  channel: Channel | undefined
}

/**
 * The sealed datagrams of one session: at most one channel a carrier, agreed on when somebody first has datagrams to send.
 *
 *     send ─▶ no channel: SEALED offer on the best carrier ─▶ the peer's offer ─▶ channel ─▶ its way opens (way.ts)
 *                  └──────────── the datagram goes as a frame until then, and whenever the way is not open ──┘
 *
 *     carrier gone ─▶ its channel and keys too; the next datagram begins again on another, with the address that worked
 */
export class Link implements SealedLink {
  readonly #options: LinkOptions
  readonly #outside: LinkEndpoint
  readonly #carriers: SealedCarrier[] = []
  readonly #agreed = new Map<SealedCarrier, Agreed>()
  readonly #reassembly: Reassembly
  readonly #burst: Burst
  #active: Channel | undefined
  #known: readonly Address[] = []
  #isSealing = false
  #isClosed = false

  constructor(options: LinkOptions, outside: LinkEndpoint) {
    this.#options = options
    this.#outside = outside
    this.#reassembly = new Reassembly(() => outside.now())
    this.#burst = new Burst(outside.burstPerSecond)
  }

  get mode(): 'sealed' | 'frames' | 'blocked' {
    if (this.#burst.isOn) return 'frames'
    if (this.#active?.isOpen === true) return 'sealed'
    return this.#active?.udpPath.isBlocked === true ? 'blocked' : 'frames'
  }

  send(stream: number, payload: Buffer): boolean | undefined {
    const channel = this.#active ?? this.#begin()
    if (channel === undefined) return undefined
    this.#burst.sent()
    const now = this.#outside.now()
    channel.udpPath.wanted(now)
    const isSound = channel.isOpen && !channel.udpPath.isDoubtful(now)
    this.#isSealing = isSound && !this.#burst.isOn && (this.#isSealing || this.#areFramesOut)
    return this.#isSealing ? channel.send(stream, payload) : undefined
  }

  /** Else what goes sealed would overtake them. */
  get #areFramesOut(): boolean {
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
    this.#outside.unregister(agreed.receiver)
    if (agreed.channel === undefined || agreed.channel !== this.#active) return
    this.#known = this.#active.udpPath.candidates.slice(0, 2)
    this.#active = this.#openest()
    if (this.#active === undefined) this.#begin()
  }

  offered(carrier: SealedCarrier, payload: Buffer): void {
    const offer = decodeOffer(payload)
    if (offer === undefined || !this.#suits(carrier)) return
    const isAnswer = !this.#agreed.has(carrier)
    const isPunching = carrier.path === 'relayed' || carrier.path === 'punched'
    const agreed = this.#agreed.get(carrier) ?? this.#offer(carrier)
    if (agreed.channel !== undefined) return // said once on a carrier
    const { sending, receiving } = carrierSecrets(carrier.secrets!, {
      self: this.#outside.self,
      peer: this.#options.peer,
      carrier: carrier.number,
    })
    const channel = new Channel(
      {
        sending,
        receiving,
        receiver: offer.receiver,
        isPunching,
        datagram: this.#options.deliver,
        fragment: (stream, body) => this.#fragment(stream, body),
      },
      this.#outside,
    )
    agreed.channel = channel
    channel.udpPath.addCandidates(this.#known)
    const offered = [...behind(carrier, offer.addresses), ...offer.addresses]
    channel.udpPath.addCandidates(offered.filter(({ host }) => !this.#outside.excludes(host)))
    this.#active ??= channel
    const begin = () => channel.udpPath.wanted(this.#outside.now()) // our probe shows the peer where we are, if it can reach us nowhere else
    const rttMs = carrier.keepalive.leastRttMs ?? 0
    // behind NATs both must begin at the same moment: the other side does when it hears our answer
    if (isPunching && isAnswer && rttMs > 0) this.#outside.later(rttMs / 2, begin)
    else begin()
  }

  tick(now: number): void {
    for (const { channel } of this.#agreed.values()) channel?.tick(now)
    const before = this.#reassembly.dropped
    this.#reassembly.tick(now)
    this.#outside.dropped('fragment', this.#reassembly.dropped - before)
    this.#outside.count()
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
    for (const { receiver } of this.#agreed.values()) this.#outside.unregister(receiver)
    this.#agreed.clear()
    this.#carriers.length = 0
    this.#active = undefined
    this.#outside.ended(this)
  }

  /** Makes our offer where there is none yet. */
  #begin(): Channel | undefined {
    if (this.#agreed.size > 0) return undefined // the answer is on its way
    const suiting = this.#carriers.filter((carrier) => this.#suits(carrier) && !carrier.isDraining)
    const carrier = suiting.find(({ path }) => path !== 'relayed') ?? suiting[0]
    if (carrier !== undefined) this.#offer(carrier)
    return undefined
  }

  #offer(carrier: SealedCarrier): Agreed {
    const agreed: Agreed = {
      receiver: this.#outside.register((packet, from) => agreed.channel?.receive(packet, from)),
      channel: undefined,
    }
    this.#agreed.set(carrier, agreed)
    carrier.outbox.control(FRAME.SEALED, 0, encodeOffer(agreed.receiver, this.#outside.addresses()))
    return agreed
  }

  /** UDP may go straight where TCP goes through a relay: NATs treat it better. */
  #suits({ secrets, peerFeatures }: SealedCarrier): boolean {
    return secrets !== undefined && (peerFeatures & FEATURE.sealed) !== 0
  }

  #openest(): Channel | undefined {
    const channels = [...this.#agreed.values()].flatMap(({ channel }) => channel ?? [])
    return channels.find(({ isOpen }) => isOpen) ?? channels[0]
  }

  #fragment(stream: number, body: Buffer): void {
    const before = this.#reassembly.dropped
    const whole = this.#reassembly.add(stream, body)
    if (this.#reassembly.dropped > before) this.#outside.dropped('fragment', this.#reassembly.dropped - before)
    if (whole === undefined) return
    this.#outside.received += 1
    this.#options.deliver(stream, whole)
  }
}

/** Where the carrier itself comes from, with the port that the peer offers: right when the peer does not know how we see it. */
function behind({ secrets, path }: SealedCarrier, offered: readonly Address[]): Address[] {
  if (path === 'relayed') return [] // that would be the relay
  const host = secrets?.remoteAddress === undefined ? undefined : unmapped(secrets.remoteAddress)
  const port = offered[0]?.port
  return host === undefined || host === '' || port === undefined ? [] : [{ host, port }]
}
