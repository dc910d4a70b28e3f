import type { NodeId } from '../../../src/core/model/ids.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { FrameType } from '../wire/frame.ts'

/** Where a UDP packet goes to or came from; numeric. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** The UDP port that sealed packets use. */
export interface DatagramPort {
  /** Where others may send to, as `host:port`, best first. */
  addresses(): string[]
  /** Sends `bytes[0…length]`, over `ttl` hops at most. `queued`: the system still reads the buffer after the call; `full`: dropped. */
  send(bytes: Buffer, length: number, to: Address, ttl?: number): 'sent' | 'queued' | 'full'
  /** The MTU of the interface towards that host: IP and UDP headers included. */
  mtuTowards(host: string): Promise<number>
  /** How many IP fragments this system has made of all it sent; constant where that is unknown. */
  fragments(host: string): number
}

/** What a link needs of a carrier. */
export interface SealedCarrier {
  readonly path: PathKind
  readonly number: number
  /** The features of the peer's HELLO. */
  readonly peerFeatures: number
  readonly isDraining: boolean
  /** The TLS beneath; without it (in tests) datagrams go in frames. */
  readonly secrets: CarrierSecrets | undefined
  /** The cipher suite of that TLS, as the standard names it. */
  readonly cipher: string | undefined
  readonly keepalive: { readonly leastRttMs: number | undefined }
  readonly outbox: {
    control(type: FrameType, stream: number, payload?: Buffer): void
    readonly datagrams: { readonly dropped: number; readonly isEmpty: boolean }
  }
}

/** Exports keys (RFC 8446 §7.5); a TLSSocket does. */
export interface CarrierSecrets {
  exportKeyingMaterial(length: number, label: string, context: Buffer): Buffer
  readonly remoteAddress?: string | undefined
}

/** The sealed datagrams of one session. */
export interface SealedLink {
  /** True: sent; false: dropped; `undefined`: the datagram must go in a frame. */
  send(stream: number, payload: Buffer): boolean | undefined
  attached(carrier: SealedCarrier): void
  detached(carrier: SealedCarrier): void
  /** A SEALED frame. @throws MeshError FRAME_INVALID */
  offered(carrier: SealedCarrier, payload: Buffer): void
  tick(now: number): void
  /** How datagrams are sent now. `blocked`: in frames, because no packet gets through. */
  readonly mode: 'sealed' | 'frames' | 'blocked'
  /** What packets are sealed with, while they are. */
  readonly sealedWith: string | undefined
  close(): void
}

export interface LinkOptions {
  peer: NodeId
  /** A datagram arrived; `payload` is good during the call only. */
  deliver: (stream: number, payload: Buffer) => void
}

/** Makes the links of all sessions of a node. */
export interface SealedEndpoint {
  link(options: LinkOptions): SealedLink
}

/** Why a packet or datagram was dropped. */
export const DROPS = [
  'short',
  'unknown',
  'epoch',
  'replay',
  'forged',
  'malformed',
  'fragment',
  'full',
  'paused',
] as const
export type Drop = (typeof DROPS)[number]
