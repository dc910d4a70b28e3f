import { LAST_INSTANCE } from '../../src/core/model/choice.ts'
import type { ServiceId } from '../../src/core/model/ids.ts'
import { type Caller, instanceCaller, NODE_CALLER, type Protocol } from './flow.ts'

/*
 *   0         1          2      4          8                16
 *   ┌─────────┬──────────┬──────┬──────────┬────────────────┬───┬─────────┬───┬────────────────┐
 *   │ version │ protocol │ port │ ordinal  │ flow id        │ n │ service │ m │ caller         │
 *   │ 1       │ 6 or 17  │      │          │ (for logs)     │   │ n bytes │   │ m bytes, 0:node│
 *   └─────────┴──────────┴──────┴──────────┴────────────────┴───┴─────────┴───┴────────────────┘
 *   n and m are one and two bytes; numbers are big-endian; nothing follows. At most 16+1+255+2+262 bytes.
 *
 * Nothing in it is believed: `inbound` checks each field against its own table and the peer's certificate.
 */

/** What an OPEN requests: one port of one instance, on behalf of one caller. */
export interface FlowRequest {
  service: ServiceId
  ordinal: number
  port: number
  protocol: Protocol
  caller: Caller
  /** 16 hex digits, the same in the logs of both ends. */
  flow: string
}

/** The most bytes that `Session.open` takes. */
export const REQUEST_LIMIT = 1024

const VERSION = 1
/** IANA protocol numbers. */
const NUMBER_OF: Readonly<Record<Protocol, number>> = { tcp: 6, udp: 17 }

export function encodeRequest(request: FlowRequest): Buffer {
  const caller = request.caller.kind === 'instance' ? request.caller.id : ''
  const service = request.service
  const bytes = Buffer.allocUnsafe(HEAD + 1 + service.length + 2 + caller.length)
  bytes.writeUInt8(VERSION, 0)
  bytes.writeUInt8(NUMBER_OF[request.protocol], 1)
  bytes.writeUInt16BE(request.port, 2)
  bytes.writeUInt32BE(request.ordinal, 4)
  bytes.write(request.flow, 8, 'hex')
  bytes.writeUInt8(service.length, HEAD)
  bytes.write(service, HEAD + 1, 'latin1')
  bytes.writeUInt16BE(caller.length, HEAD + 1 + service.length)
  bytes.write(caller, HEAD + 3 + service.length, 'latin1')
  return bytes
}

/** `undefined` unless the bytes are exactly one well-formed request. */
export function decodeRequest(bytes: Buffer): FlowRequest | undefined {
  if (bytes.length < HEAD + 3 || bytes.length > REQUEST_LIMIT) return undefined
  const protocol = protocolOf(bytes[1] as number)
  if (bytes[0] !== VERSION || protocol === undefined) return undefined
  const port = bytes.readUInt16BE(2)
  const ordinal = bytes.readUInt32BE(4)
  const afterService = HEAD + 1 + (bytes[HEAD] as number)
  if (port === 0 || ordinal > LAST_INSTANCE || bytes.length < afterService + 2) return undefined
  const afterCaller = afterService + 2 + bytes.readUInt16BE(afterService)
  if (bytes.length !== afterCaller) return undefined
  const service = bytes.toString('latin1', HEAD + 1, afterService)
  const caller = callerOf(bytes.toString('latin1', afterService + 2, afterCaller))
  if (!SERVICE_ID.test(service) || caller === undefined) return undefined
  return { service, ordinal, port, protocol, caller, flow: bytes.toString('hex', 8, HEAD) }
}

const HEAD = 16
const LABEL = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?'
const SERVICE_ID = new RegExp(`^${LABEL}(?:\\.${LABEL}){3}$`)

function protocolOf(number: number): Protocol | undefined {
  if (number === NUMBER_OF.tcp) return 'tcp'
  return number === NUMBER_OF.udp ? 'udp' : undefined
}

function callerOf(id: string): Caller | undefined {
  if (id === '') return NODE_CALLER
  const caller = instanceCaller(id)
  return caller?.kind === 'instance' && SERVICE_ID.test(caller.service) ? caller : undefined
}
