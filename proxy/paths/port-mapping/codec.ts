import { isIPv4 } from 'node:net'

/*
 * The two protocols in which a router is asked to forward a port, both over UDP port 5351 of the gateway; numbers are big-endian.
 *
 *     PCP, RFC 6887 §7, §11 (60 bytes both ways)
 *     0        1         2           4                8                  24
 *     ┌────────┬─────────┬───────────┬────────────────┬──────────────────┬───
 *     │ 2      │ 1 = MAP │ 0         │ lifetime (s)   │ our address      │ request
 *     │ 2      │ 0x81    │ 0, result │ lifetime (s)   │ epoch, 12 × 0    │ answer
 *     └────────┴─────────┴───────────┴────────────────┴──────────────────┴───
 *     24           36         37     40         42         44
 *     ┬────────────┬──────────┬──────┬──────────┬──────────┬───────────────────┐
 *     │ nonce      │ 6 or 17  │ 0    │ our port │ its port │ its address       │ both
 *     ┴────────────┴──────────┴──────┴──────────┴──────────┴───────────────────┘
 *
 *     NAT-PMP, RFC 6886 §3.2, §3.3
 *     0 │ 0                                                                        address request (2 bytes)
 *     0 │ 128  │ result (2) │ epoch (4) │ address (4)                              answer (12)
 *     0 │ 1 UDP, 2 TCP │ 0 (2) │ our port │ its port │ lifetime (4)                 map request (12)
 *     0 │ 129 or 130 │ result (2) │ epoch (4) │ our port │ its port │ lifetime (4)  answer (16)
 */
export const PORT_MAPPING_PORT = 5351
export type Protocol = 'tcp' | 'udp'
/** Drawn for each mapping: only a request with the same nonce renews or removes it. */
export const NONCE_BYTES = 12

export interface MapRequest {
  protocol: Protocol
  port: number
  /** The external port that we would like, or have; 0 for any. */
  wanted: number
  /** 0 removes the mapping. */
  lifetimeSeconds: number
}

export interface Mapped {
  protocol: Protocol
  port: number
  external: { address?: string; port: number }
  lifetimeSeconds: number
  /** Seconds since the router last lost its mappings. */
  epoch: number
}

/** An answer of the gateway. */
export type Answer =
  | ({ kind: 'mapped' } & Mapped & { nonce?: Buffer })
  | { kind: 'address'; address: string; epoch: number }
  /** `isForeign`: the router speaks another version of the protocol. */
  | { kind: 'refused'; reason: string; isForeign: boolean; protocol?: Protocol }

const PROTOCOL_NUMBER: Readonly<Record<Protocol, number>> = { tcp: 6, udp: 17 }
const PCP_BYTES = 60
/** RFC 6887 §7: a longer packet is no message. */
const MOST_BYTES = 1_100

export function encodePcp(request: MapRequest, from: { address: string; nonce: Buffer }): Buffer {
  const out = Buffer.alloc(PCP_BYTES)
  out.writeUInt8(2, 0)
  out.writeUInt8(1, 1)
  out.writeUInt32BE(request.lifetimeSeconds, 4)
  ipv4Mapped(from.address).copy(out, 8)
  from.nonce.copy(out, 24, 0, NONCE_BYTES)
  out.writeUInt8(PROTOCOL_NUMBER[request.protocol], 36)
  out.writeUInt16BE(request.port, 40)
  out.writeUInt16BE(request.wanted, 42)
  ipv4Mapped('0.0.0.0').copy(out, 44)
  return out
}

export function encodeNatPmp({ protocol, port, wanted, lifetimeSeconds }: MapRequest): Buffer {
  const out = Buffer.alloc(12)
  out.writeUInt8(protocol === 'udp' ? 1 : 2, 1)
  out.writeUInt16BE(port, 4)
  out.writeUInt16BE(lifetimeSeconds === 0 ? 0 : wanted, 6) // RFC 6886 §3.4
  out.writeUInt32BE(lifetimeSeconds, 8)
  return out
}

export function encodeAddressRequest(): Buffer {
  return Buffer.alloc(2)
}

/** `undefined` when it is no answer to anything we send. */
export function readAnswer(packet: Buffer): Answer | undefined {
  if (packet.length < 4 || packet.length > MOST_BYTES) return undefined
  return packet[0] === 2 ? readPcp(packet) : packet[0] === 0 ? readNatPmp(packet) : undefined
}

function readPcp(packet: Buffer): Answer | undefined {
  if (packet[1] !== 0x81 && packet[1] !== 0x80) return undefined
  const result = packet[3]!
  const isMap = packet[1] === 0x81 && packet.length >= PCP_BYTES
  const protocol = isMap ? protocolOf(packet[36]!) : undefined
  if (result !== 0)
    return {
      kind: 'refused',
      reason: PCP_RESULTS[result] ?? `result ${result}`,
      isForeign: result === 1,
      ...(protocol === undefined ? {} : { protocol }),
    }
  if (protocol === undefined) return undefined
  const address = ipv4In(packet.subarray(44, 60))
  return {
    kind: 'mapped',
    protocol,
    port: packet.readUInt16BE(40),
    external: { port: packet.readUInt16BE(42), ...(address === undefined ? {} : { address }) },
    lifetimeSeconds: packet.readUInt32BE(4),
    epoch: packet.readUInt32BE(8),
    nonce: Buffer.from(packet.subarray(24, 36)),
  }
}

function readNatPmp(packet: Buffer): Answer | undefined {
  const operation = packet[1]! - 128
  if (operation < 0 || operation > 2) return undefined
  const result = packet.readUInt16BE(2)
  const protocol = operation === 0 ? undefined : operation === 1 ? 'udp' : 'tcp'
  if (result !== 0)
    return {
      kind: 'refused',
      reason: NAT_PMP_RESULTS[result] ?? `result ${result}`,
      isForeign: result === 1,
      ...(protocol === undefined ? {} : { protocol }),
    }
  if (protocol === undefined) {
    if (packet.length < 12) return undefined
    return { kind: 'address', address: packet.subarray(8, 12).join('.'), epoch: packet.readUInt32BE(4) }
  }
  if (packet.length < 16) return undefined
  return {
    kind: 'mapped',
    protocol,
    port: packet.readUInt16BE(8),
    external: { port: packet.readUInt16BE(10) },
    lifetimeSeconds: packet.readUInt32BE(12),
    epoch: packet.readUInt32BE(4),
  }
}

const PCP_RESULTS: Readonly<Record<number, string>> = {
  1: 'unsupported version',
  2: 'not authorised',
  3: 'malformed request',
  4: 'unsupported operation',
  7: 'network failure',
  8: 'no resources',
  9: 'unsupported protocol',
  10: 'too many mappings',
  11: 'the external port is not available',
  12: 'there is another NAT between this node and the router',
}
const NAT_PMP_RESULTS: Readonly<Record<number, string>> = {
  1: 'unsupported version',
  2: 'not authorised',
  3: 'network failure',
  4: 'no resources',
  5: 'unsupported operation',
}

function protocolOf(number: number): Protocol | undefined {
  return number === PROTOCOL_NUMBER.tcp ? 'tcp' : number === PROTOCOL_NUMBER.udp ? 'udp' : undefined
}

/** IPv4 as IPv6, ::ffff:a.b.c.d (RFC 6887 §5). @throws Error for anything but IPv4, which alone needs mappings */
function ipv4Mapped(address: string): Buffer {
  if (!isIPv4(address)) throw new Error(`${address} is not IPv4`)
  return Buffer.from([...Buffer.alloc(10), 0xff, 0xff, ...address.split('.').map(Number)])
}

function ipv4In(bytes: Buffer): string | undefined {
  const isV4 = bytes.subarray(0, 10).every((byte) => byte === 0) && bytes[10] === 0xff && bytes[11] === 0xff
  const address = bytes.subarray(12).join('.')
  return isV4 && address !== '0.0.0.0' ? address : undefined
}
