import type { Socket } from 'node:net'
import { endGracefully } from '../../src/core/kit/end-gracefully.ts'
import { NODE_CALLER, type FlowReply } from '../flow/flow.ts'
import { GrowingBuffer, type Handshake, type HandshakeStep, type Refuse } from '../intercept/handshake.ts'
import { httpAnswer } from '../intercept/http-answers.ts'
import { resetSocket } from '../socket/reset.ts'
import { readClientHello } from './client-hello.ts'
import { readRequestHost } from './request-host.ts'
import { type GatewayPort, type GatewayTarget, routeTo } from './rules.ts'

/*
 * A client of a port with many host names, until the one it wants is known. What was read is carried first, unchanged. Strangers are
 * told what their protocol has for it, and nothing about the mesh.
 */

/** Reads a ClientHello; TLS goes on between the client and the service. */
export class HelloPeek implements Handshake {
  readonly #port: GatewayPort
  readonly #received = new GrowingBuffer()

  constructor(port: GatewayPort) {
    this.#port = port
  }

  push(chunk: Buffer): HandshakeStep {
    this.#received.append(chunk)
    const { bytes } = this.#received
    const verdict = readClientHello(bytes)
    switch (verdict.kind) {
      case 'more':
        return { kind: 'more' }
      case 'invalid':
        return { kind: 'refuse', answer: alert(DECODE_ERROR), reason: verdict.reason }
      case 'hello': {
        const target = routeTo(this.#port, verdict.name)
        return target === undefined
          ? { kind: 'refuse', answer: alert(UNRECOGNIZED_NAME), reason: noRoute(verdict.name) }
          : connect(target, bytes)
      }
      default:
        return verdict satisfies never
    }
  }

  giveUp(reason: string): Refuse {
    return { kind: 'refuse', answer: alert(USER_CANCELED), reason }
  }
}

/** Reads the head of the first request. */
export class RequestPeek implements Handshake {
  readonly #port: GatewayPort
  readonly #received = new GrowingBuffer()
  #searched = 0

  constructor(port: GatewayPort) {
    this.#port = port
  }

  push(chunk: Buffer): HandshakeStep {
    this.#received.append(chunk)
    const { bytes } = this.#received
    const verdict = readRequestHost(bytes, this.#searched)
    this.#searched = bytes.length
    switch (verdict.kind) {
      case 'more':
        return { kind: 'more' }
      case 'invalid':
        return refuseRequest(verdict.status, verdict.reason)
      case 'request': {
        const target = routeTo(this.#port, verdict.host)
        return target === undefined
          ? refuseRequest(421, noRoute(verdict.host))
          : { ...connect(target, bytes), reply: requestAnswers }
      }
      default:
        return verdict satisfies never
    }
  }

  giveUp(reason: string): Refuse {
    return refuseRequest(408, reason)
  }
}

/** One reason for all names, since strangers choose them. */
export const NO_ROUTE = 'no service has the host name that the client asks for'

function noRoute(name: string | undefined): string {
  return name === undefined ? 'the client names no host' : NO_ROUTE
}

function connect({ name, port }: GatewayTarget, bytes: Buffer) {
  const first = Buffer.from(bytes)
  return { kind: 'connect', caller: NODE_CALLER, host: name, port, first, reply: resetAnswers } as const
}

/** As at a VIP. */
function resetAnswers(socket: Socket): FlowReply {
  return { connected: () => undefined, failed: () => resetSocket(socket) }
}

function refuseRequest(status: number, reason: string): Refuse {
  return { kind: 'refuse', answer: httpAnswer(status, reason), reason }
}

function requestAnswers(socket: Socket): FlowReply {
  return {
    connected: () => undefined,
    failed: () => endGracefully(socket, httpAnswer(503, 'the service cannot be reached')),
  }
}

/** Alerts that end a handshake (RFC 8446 §6). */
const UNRECOGNIZED_NAME = 112
const DECODE_ERROR = 50
const USER_CANCELED = 90

function alert(description: number): Buffer {
  return Buffer.of(21, 3, 3, 0, 2, 2, description)
}
