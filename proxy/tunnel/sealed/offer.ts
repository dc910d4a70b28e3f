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
  /** The receiver index of packets to the offering side. */
  receiver: number
  addresses: Address[]
}

const OFFER = 1
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

/** `undefined` for a kind that only later versions know. @throws MeshError FRAME_INVALID */
export function decodeOffer(payload: Buffer): Offer | undefined {
  if (payload[0] !== OFFER) return undefined
  if (payload.length > HEAD_BYTES + MAX_TEXT) throw frameInvalid('an offer of sealed datagrams that is too long')
  const words = payload.toString('latin1', HEAD_BYTES).split(' ', MAX_ADDRESSES)
  const addresses = words.map(addressOf).filter((address) => address !== undefined)
  return { receiver: payload.readUInt32BE(4), addresses }
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
