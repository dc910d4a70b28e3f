import type { Socket } from 'node:net'
import type { Ends } from '../../src/core/kit/local-users.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import { type InstanceId, type NodeId, type ServiceId, splitInstanceId } from '../../src/core/model/ids.ts'
import { printName } from '../../src/core/model/name.ts'
import type { Target } from '../../src/core/table/view.ts'
import type { AnswerCheck, AnswerVerdict } from '../socket/splice.ts'

/**
 * Who opened a flow: an instance, or a process of the node that is not an instance. `client`: the address of the stranger on whose behalf
 * the node calls, at its gateway.
 */
export type Caller =
  | { kind: 'instance'; id: InstanceId; service: ServiceId }
  | { kind: 'node'; readonly client?: string }

export type Protocol = 'tcp' | 'udp'

export type FlowMode = 'loopback' | 'host' | 'socks' | 'http' | 'gateway'

/** One application connection, taken by an interceptor and handed to `outbound`. */
export interface Flow {
  readonly target: Target
  readonly port: number
  /** Paused, `allowHalfOpen`, `noDelay`: the caller's first bytes wait in it until an instance has answered (or see early-data.ts). */
  readonly socket: Socket
  readonly caller: Caller
  readonly mode: FlowMode
  /** `clock.now()` when the connection was taken. */
  readonly startedAt: number
  /** How a SOCKS or HTTP caller is answered before any byte of the instance; absent: it sees a connection or an RST. */
  readonly reply?: FlowReply
  /** Bytes the caller may send before its side counts as ended (plain HTTP: one request); absent: no limit. */
  readonly allowance?: number
}

/** Either `connected` or `failed` is called, and once. */
export interface FlowReply {
  connected(): void
  /** Answers and ends the socket. */
  failed(code: ErrorCode, reason: string): void
  /** Looks at the first bytes that the instance answers; absent: they pass. */
  readonly answer?: AnswerCheck
}

export type { AnswerCheck, AnswerVerdict }

/**
 * The client of one UDP flow, from its first datagram on: an address and port with a VIP and port, or a destination that was
 * requested from SOCKS.
 */
export interface DatagramClient {
  /** By which its user is known: where its datagrams come from, or the connection of its SOCKS association. */
  readonly from: Ends
  readonly port: number
  readonly mode: FlowMode
  /** `clock.now()` when its first datagram came. */
  readonly startedAt: number
  /** What it wants and who calls; datagrams wait until that is known. Never rejects. */
  readonly intent: DatagramIntent | Promise<DatagramIntent>
  /** Sends one datagram to the client, from the address that it sent to; false when it was lost. `payload` is reused after the call. */
  answer(payload: Buffer): boolean
  /** Called once, when the flow has ended; what the client sends next begins another. */
  ended(): void
}

export type DatagramIntent =
  | { kind: 'target'; target: Target; caller: Caller }
  | { kind: 'refused'; name: string; reason: string }

/** Where a client's datagrams go. */
export interface DatagramSink {
  /** `payload` is reused after the call. */
  datagram(payload: Buffer): void
  /** The client or its listener has gone. */
  end(): void
}

export const NODE_CALLER: Caller = { kind: 'node' }

/** The caller with this instance id; `undefined` when it is not an instance id. */
export function instanceCaller(id: InstanceId): Caller | undefined {
  const parts = splitInstanceId(id)
  return parts === undefined ? undefined : { kind: 'instance', id, service: parts.service }
}

/** Always the same text for one caller: logs print it, and `any.pinned` chooses by it. */
export function callerText(caller: Caller, self: NodeId): string {
  if (caller.kind === 'instance') return caller.id
  return caller.client === undefined ? self : `${caller.client} by ${self}`
}

/** The canonical name of a flow's target. */
export function nameOf({ service, choice }: Target, zone = 'local'): string {
  const { app, appNamespace, name, namespace } = service
  return printName({ app, appNamespace, service: name, serviceNamespace: namespace, choice }, zone)
}

/** `80`, `53/udp`: TCP is what everybody expects. */
export function portText(port: number, protocol: Protocol): string {
  return protocol === 'tcp' ? String(port) : `${port}/${protocol}`
}
