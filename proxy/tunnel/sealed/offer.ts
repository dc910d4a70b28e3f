import { isIP } from 'node:net'
import { frameInvalid } from '../wire/frame.ts'
import type { Address } from './contract.ts'

/**
 * The payload of a SEALED frame: an offer to receive datagrams over UDP, under the keys of this carrier. Each side sends one per
 * carrier, as the answer to the other's or because it has datagrams to send. Its addresses are claims until a probe is answered
 * (udp-path.ts).
 *
 *     0      1             4            8
 *     ┌──────┬─────────────┬────────────┬──────
 *     │ kind │ 0           │ receiver   │ addresses, best first, separated by spaces: 203.0.113.5:7472 [2001:db8::5]:7472
 *     │ 1    │             │ u32        │ ASCII, ≤ 504 bytes
 *     └──────┴─────────────┴────────────┴──────
 */
export interface Offer {
  kind: 'offer'
  /** The receiver index of packets to the offering side. */
  receiver: number
  addresses: Address[]
}

/**
 * The other kind of SEALED frame: send nothing to this receiver for a while, because too many forged packets arrive there.
 *
 *     ┌──────┬─────────────┬────────────┬────────────┐
 *     │ kind │ 0           │ receiver   │ ms         │
 *     │ 2    │             │ u32        │ u32        │
 *     └──────┴─────────────┴────────────┴────────────┘
 */
export interface Pause {
  kind: 'pause'
  receiver: number
  ms: number
}

const OFFER = 1
const PAUSE = 2
const PAUSE_BYTES = 12
/** A peer cannot keep us from trying again for longer. */
const MAX_PAUSE_MS = 60_000
const HEAD_BYTES = 8
const MAX_TEXT = 504
/** Further addresses are ignored: a node must not make others send to many hosts. */
export const MAX_ADDRESSES = 8

export function encodeOffer(receiver: number, addresses: readonly string[]): Buffer {
  let text = ''
  for (const address of addresses.slice(0, MAX_ADDRESSES)) {
    const longer = text === '' ? address : `${text} ${address}`
    if (longer.length <= MAX_TEXT) text = longer
  }
  const out = Buffer.alloc(HEAD_BYTES + text.length)
  out[0] = OFFER
  out.writeUInt32BE(receiver, 4)
  out.write(text, HEAD_BYTES, 'latin1')
  return out
}

export function encodePause(receiver: number, ms: number): Buffer {
  const out = Buffer.alloc(PAUSE_BYTES)
  out[0] = PAUSE
  out.writeUInt32BE(receiver, 4)
  out.writeUInt32BE(ms, 8)
  return out
}

/** `undefined` for a kind that only later versions know. @throws MeshError FRAME_INVALID */
export function decodeOffer(payload: Buffer): Offer | Pause | undefined {
  if (payload[0] === PAUSE) return decodePause(payload)
  if (payload[0] !== OFFER) return undefined
  if (payload.length > HEAD_BYTES + MAX_TEXT) throw frameInvalid('an offer of sealed datagrams that is too long')
  const words = payload.toString('latin1', HEAD_BYTES).split(' ', MAX_ADDRESSES)
  const addresses = words.map(addressOf).filter((address) => address !== undefined)
  return { kind: 'offer', receiver: payload.readUInt32BE(4), addresses }
}

function decodePause(payload: Buffer): Pause {
  if (payload.length < PAUSE_BYTES) throw frameInvalid('a pause of sealed datagrams that is too short')
  const ms = Math.min(payload.readUInt32BE(8), MAX_PAUSE_MS)
  return { kind: 'pause', receiver: payload.readUInt32BE(4), ms }
}

/** Numeric addresses only: a name would make us send a DNS query. */
export function addressOf(text: string): Address | undefined {
  const match = /^(?:\[([0-9a-f:.]{2,45})\]|([0-9.]{7,15})):(\d{1,5})$/i.exec(text)
  const host = match?.[1] ?? match?.[2] ?? ''
  const port = Number(match?.[3])
  const isSane = isIP(host) === (match?.[1] === undefined ? 4 : 6) && port >= 1 && port <= 65_535
  return isSane ? { host, port } : undefined
}

export function sameAddress(one: Address | undefined, other: Address | undefined): boolean {
  return one?.port === other?.port && one?.host === other?.host
}
