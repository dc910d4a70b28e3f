import type { Socket } from 'node:net'
import type { ErrorCode } from '../src/errors.ts'
import { type InstanceId, type NodeId, type ServiceId, splitInstanceId } from '../src/model/ids.ts'
import { printName } from '../src/model/name.ts'
import type { Target } from '../src/table/view.ts'

/** Who opened a flow: an instance, or a process of the node that is no instance. */
export type Caller = { kind: 'instance'; id: InstanceId; service: ServiceId } | { kind: 'node' }

export type FlowMode = 'loopback' | 'host' | 'socks' | 'http'

/** One application connection, taken by an interceptor and handed to `outbound`. */
export interface Flow {
  readonly target: Target
  readonly port: number
  /** Paused, `allowHalfOpen`, `noDelay`: the caller's first bytes wait in it until an instance has answered. */
  readonly socket: Socket
  readonly caller: Caller
  readonly mode: FlowMode
  /** `clock.now()` when the connection was taken. */
  readonly startedAt: number
  /** What SOCKS and HTTP callers are told before any byte of the instance; absent: they see a connection or an RST. */
  readonly reply?: FlowReply
  /** Bytes the caller may send before its side counts as ended (plain HTTP: one request); absent: no limit. */
  readonly allowance?: number
}

/** Exactly one of the two is called, once. */
export interface FlowReply {
  connected(): void
  /** Answers and ends the socket. */
  failed(code: ErrorCode, reason: string): void
}

export const NODE_CALLER: Caller = { kind: 'node' }

/** The caller an instance id stands for; `undefined` when it is not one. */
export function instanceCaller(id: InstanceId): Caller | undefined {
  const parts = splitInstanceId(id)
  return parts === undefined ? undefined : { kind: 'instance', id, service: parts.service }
}

/** Always the same text for one caller: what logs print and `any.pinned` sticks to. */
export function callerText(caller: Caller, self: NodeId): string {
  return caller.kind === 'instance' ? caller.id : self
}

/** The canonical name of what a flow was opened to. */
export function nameOf({ service, choice }: Target, zone = 'local'): string {
  const { app, appNamespace, name, namespace } = service
  return printName({ app, appNamespace, service: name, serviceNamespace: namespace, choice }, zone)
}
