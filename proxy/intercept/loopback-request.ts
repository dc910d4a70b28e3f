import { connect, isIP, type Socket } from 'node:net'
import { explain, type ErrorCode } from '../../src/core/errors.ts'
import { addressToVip, parseIPv4, type VipRange } from '../../src/core/model/address.ts'
import type { FlowReply } from '../flow/flow.ts'
import { resetSocket } from '../socket/reset.ts'

/*
 * Programs with proxy variables should reach servers of their own machine without the proxy (NO_PROXY), but some ask for
 * `http://127.0.0.1:9999/` all the same. The program could connect there itself, so the proxy does it for the program.
 */

export interface LoopbackRequest {
  readonly host: string
  readonly port: number
  readonly reply: FlowReply
  /** Ports that are not carried to: the agent's own. */
  readonly forbids?: (address: string, port: number) => boolean
}

/** Whether a host is loopback, and no VIP. */
export function isThisMachine(host: string, ranges: readonly VipRange[]): boolean {
  const name = host.toLowerCase()
  if (name === 'localhost' || name.endsWith('.localhost')) return true // RFC 6761 §6.3
  if (isIP(host) === 0 || ranges.some((range) => addressToVip(range, host) !== undefined)) return false
  const v4 = parseIPv4(host)
  return v4 === undefined ? host === '::1' : v4 >>> 24 === 127
}

/** Connects a client to a server on loopback, and carries the bytes. */
export function carryOnThisMachine(client: Socket, { host, port, reply, forbids }: LoopbackRequest): void {
  const addresses = isIP(host) === 0 ? ['127.0.0.1', '::1'] : [host]
  if (addresses.some((address) => forbids?.(address, port) === true))
    return reply.failed('NOT_ALLOWED', `port ${port} belongs to the agent`)
  connectTo(addresses, port, (server, error) => {
    if (server === undefined) return reply.failed(codeOf(error), explain(error))
    if (client.destroyed) return void server.destroy()
    server.on('error', () => resetSocket(client))
    client.on('error', () => resetSocket(server))
    client.once('close', () => server.destroy())
    reply.connected()
    client.pipe(server)
    server.pipe(client)
  })
}

function connectTo(
  [address, ...others]: readonly string[],
  port: number,
  done: (server: Socket | undefined, error?: unknown) => void,
): void {
  const server = connect({ host: address, port, allowHalfOpen: true, noDelay: true })
  const failed = (error: unknown): void => {
    if (others.length > 0) connectTo(others, port, done)
    else done(undefined, error)
  }
  server.once('error', failed)
  server.once('connect', () => {
    server.off('error', failed)
    done(server)
  })
}

function codeOf(error: unknown): ErrorCode {
  return (error as NodeJS.ErrnoException).code === 'ETIMEDOUT' ? 'FLOW_TIMEOUT' : 'FLOW_REFUSED'
}
