import type { NodeId } from '../../../src/core/model/ids.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { FrameType } from '../wire/frame.ts'

/** Where a UDP packet goes to or came from; numeric. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** UDP as the sealed room sees it. */
export interface DatagramPort {
  /** Where others may send to, as `host:port`, best first. */
  addresses(): string[]
  /** Sends `bytes[0…length]`, `ttl` hops at most when given; `queued` when the system still reads the buffer after the call, `full` when it was dropped. */
  send(bytes: Buffer, length: number, to: Address, ttl?: number): 'sent' | 'queued' | 'full'
  /** What an interface towards that host carries in one packet, with IP and UDP headers. */
  mtuTowards(host: string): Promise<number>
  /** How many IP fragments this system has made, of whatever it sent; always the same where that is not known. */
  fragments(host: string): number
}

/** A carrier as the sealed room sees it. */
export interface SealedCarrier {
  readonly path: PathKind
  readonly number: number
  /** What the peer's HELLO said it can do. */
  readonly peerFeatures: number
  readonly isDraining: boolean
  /** TLS beneath; `undefined` where there is none (tests), and then datagrams go as frames. */
  readonly secrets: CarrierSecrets | undefined
  readonly keepalive: { readonly leastRttMs: number | undefined }
  readonly outbox: {
    control(type: FrameType, stream: number, payload?: Buffer): void
    readonly datagrams: { readonly dropped: number; readonly isEmpty: boolean }
  }
}

/** RFC 8446 §7.5; a TLSSocket is one. */
export interface CarrierSecrets {
  exportKeyingMaterial(length: number, label: string, context: Buffer): Buffer
  readonly remoteAddress?: string | undefined
}

/** The sealed datagrams of one session. */
export interface SealedLink {
  /** True when sent, false when dropped, `undefined` when the datagram must go as a frame. */
  send(stream: number, payload: Buffer): boolean | undefined
  attached(carrier: SealedCarrier): void
  detached(carrier: SealedCarrier): void
  /** A SEALED frame. @throws MeshError FRAME_INVALID */
  offered(carrier: SealedCarrier, payload: Buffer): void
  tick(now: number): void
  /** How datagrams go now; `blocked`: in frames, as no packet gets through. */
  readonly mode: 'sealed' | 'frames' | 'blocked'
  close(): void
}

export interface LinkOptions {
  peer: NodeId
  /** A datagram came: `payload` is good during the call only. */
  deliver: (stream: number, payload: Buffer) => void
}

/** Makes the links of all sessions of a node. */
export interface SealedEndpoint {
  link(options: LinkOptions): SealedLink
}

/** Why a packet or datagram was dropped. */
export const DROPS = ['short', 'unknown', 'epoch', 'replay', 'forged', 'malformed', 'fragment', 'full'] as const
export type Drop = (typeof DROPS)[number]
