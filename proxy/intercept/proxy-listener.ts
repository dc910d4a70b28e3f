import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { MeshError } from '../../src/core/errors.ts'
import { closeWhenIdle } from '../../src/core/kit/close-when-idle.ts'
import { endGracefully } from '../../src/core/kit/end-gracefully.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { bindShared } from '../../src/core/kit/bind-shared.ts'
import { LocalSources } from '../../src/core/kit/local-sources.ts'
import type { Caller, FlowReply } from '../flow/flow.ts'
import type { Credentials } from './credentials.ts'
import { resetSocket } from '../socket/reset.ts'
import { BACKLOG, type InterceptParts, type Interceptor, type Problem } from './interceptor.ts'
import { type Naming, targetOf } from './target-of.ts'

/** What SOCKS and HTTP listeners share: a door on loopback, a handshake with limits, a name, a flow. */

export interface ProxyOptions {
  /** A loopback address. */
  host?: string
  port: number
  /** The agent that is taken over from listens there still. */
  isBeside?: boolean
  /** Handshakes under way, of 16 KiB at most each; more connections are reset at once. */
  handshakes?: number
  /** Until the request must be complete. */
  handshakeMs?: number
}

export interface ProxyParts extends InterceptParts, Naming {
  readonly credentials: Credentials
}

/** What a handshake wants after a chunk: more bytes, to be ended, or a connection. */
export type Greeting =
  | { kind: 'more'; answer?: Buffer }
  | { kind: 'end'; answer?: Buffer }
  | {
      kind: 'ask'
      answer?: Buffer
      caller: Caller
      host: string
      port: number
      /** To be carried first: what came after the request, or the rewritten request itself. */
      first: Buffer
      allowance?: number
      reply(socket: Socket): FlowReply
    }
  /** The connection is not to be carried, but means something by itself. */
  | { kind: 'keep'; answer?: Buffer; take(socket: Socket): void }

/** One connection's handshake, free of I/O: bytes in, what to do out. */
export interface Handshake {
  push(chunk: Buffer): Greeting
}

/** What one kind of proxy does. */
export interface ProxyKind {
  mode: 'socks' | 'http'
  begin(): Handshake
  /** The door has closed. */
  closed?(): void
}

export class ProxyListener implements Interceptor {
  readonly address: string
  readonly port: number
  readonly #life: Lifetime

  private constructor(life: Lifetime, { address, port }: AddressInfo) {
    this.#life = life
    this.address = address
    this.port = port
  }

  /** @throws MeshError LISTEN_FAILED */
  static start(kind: ProxyKind, options: ProxyOptions, parts: ProxyParts): Promise<ProxyListener> {
    const { mode } = kind
    const { host = '127.0.0.1', port, isBeside = false, handshakes = 4_096, handshakeMs = 10_000 } = options
    return Lifetime.open(async (life) => {
      const greeting = new Set<Socket>()
      const sources = parts.sources ?? new LocalSources(parts.log, { clock: parts.clock })
      let wasFull = false
      const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
        if (!sources.admits(socket.remoteAddress, mode)) {
          socket.on('error', () => undefined)
          resetSocket(socket)
          return
        }
        const isFull = greeting.size >= handshakes
        if (isFull && !wasFull) parts.log.warn('connections refused, too many handshakes are under way', { mode })
        wasFull = isFull
        if (isFull || parts.descriptors?.reserve(0) === false) {
          resetSocket(socket)
          return
        }
        greeting.add(socket)
        greet(
          socket,
          kind.begin(),
          handshakeMs,
          (asked) => void hand(asked, socket, mode, parts),
          () => greeting.delete(socket),
        )
      })
      await listen(server, host, port, isBeside)
      parts.metrics.listeners.inc({ mode })
      life.defer(async () => {
        parts.metrics.listeners.dec({ mode })
        await closeWhenIdle([server], 'connection')
        if (greeting.size > 0) await parts.clock.sleep(LAST_GREETING_MS)
        for (const socket of greeting) socket.destroy()
        kind.closed?.()
      })
      return new ProxyListener(life, server.address() as AddressInfo)
    })
  }

  /** A door that could not be opened is an error at start, so there is nothing to tell later. */
  problems(): Problem[] {
    return []
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** A handshake takes two round trips on loopback: who has begun one when the door closes may end it. */
const LAST_GREETING_MS = 250

type Asked = Extract<Greeting, { kind: 'ask' }>

/** Feeds the handshake until it asks for a connection or is over. `done` is called once, in any case. */
function greet(
  socket: Socket,
  handshake: Handshake,
  limitMs: number,
  ask: (asked: Asked) => void,
  done: () => void,
): void {
  const timer = setTimeout(() => socket.destroy(), limitMs)
  const finish = (): void => {
    clearTimeout(timer)
    socket.removeListener('data', onData)
    socket.removeListener('end', onEnd)
    socket.removeListener('close', finish)
    done()
  }
  const onEnd = (): void => void socket.destroy()
  const onData = (chunk: Buffer): void => {
    const next = handshake.push(chunk)
    if (next.answer !== undefined) socket.write(next.answer)
    if (next.kind === 'ask') {
      socket.pause()
      finish()
      if (next.first.length > 0) socket.unshift(next.first)
      return ask(next)
    }
    if (next.kind === 'keep') {
      finish()
      return next.take(socket)
    }
    if (next.kind === 'end') {
      finish()
      endGracefully(socket)
    }
  }
  socket.on('error', () => undefined)
  socket.on('data', onData)
  socket.on('end', onEnd)
  socket.on('close', finish)
}

async function hand(asked: Asked, socket: Socket, mode: 'socks' | 'http', parts: ProxyParts): Promise<void> {
  const { caller, allowance } = asked
  const startedAt = parts.clock.now()
  const reply = asked.reply(socket)
  const found = await targetOf(asked.host, asked.port, parts)
  if (found.kind === 'refused') {
    parts.log.info('flow refused', { mode, name: asked.host, port: asked.port, reason: found.reason })
    return reply.failed(found.code, found.reason)
  }
  const flow = { target: found.target, port: asked.port, socket, caller, mode, startedAt, reply }
  parts.onFlow(allowance === undefined ? flow : { ...flow, allowance })
}

async function listen(server: Server, host: string, port: number, isBeside: boolean): Promise<void> {
  try {
    server.listen(bindShared({ host, port, isBeside }), BACKLOG)
    await once(server, 'listening')
  } catch (error) {
    throw new MeshError('LISTEN_FAILED', { address: `${host}:${port}` }, { cause: error })
  }
}
