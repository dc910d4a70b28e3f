import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { isIPv6 } from 'node:net'
import type { SharedAddress } from '../src/core/kit/bind-shared.ts'
import { closeWhenIdle } from '../src/core/kit/close-when-idle.ts'
import type { Log } from '../src/core/kit/log.ts'
import type { Serving } from './tcp-listener.ts'

/*
 *   open ──▶ holding (questions that come before there is a responder are kept) ──serve──▶ serving ──close──▶ closed
 *
 * Beside the agent that this one takes over from, half of all questions arrive here from the first moment.
 */
type State =
  | { kind: 'holding'; packets: Array<[Buffer, RemoteInfo]> }
  | { kind: 'serving'; serving: Serving }
  | { kind: 'closed' }

/** Questions kept until there is a responder. Smaller: a burst is lost; clients ask again after a second or more. */
const HELD_LIMIT = 1_000
/** Replies that wait for the cluster or an upstream hold up the closing for this long; clients ask again after a second or more. */
const LATE_REPLY_MS = 1_000
/** Holds a burst while the event loop is busy; the kernel caps it at net.core.rmem_max. */
const RECEIVE_BYTES = 1 << 20

/** The UDP side of the resolver. */
export class UdpListener implements AsyncDisposable {
  readonly #socket: Socket
  #state: State = { kind: 'holding', packets: [] }
  /** Replies that something has to be waited for. */
  readonly #late = new Set<Promise<void>>()
  #closing: Promise<void> | undefined

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.on('message', (packet, from) => this.#received(packet, from))
  }

  /** Shared with the agent that takes over. @throws the system's error, for example EADDRINUSE when somebody else listens */
  static async start(listen: SharedAddress): Promise<UdpListener> {
    if (listen.isBeside !== true && listen.port !== 0) {
      const probe = await bind(listen, { reusePort: false })
      await new Promise<void>((closed) => void probe.close(closed))
    }
    return new UdpListener(await bind(listen, { reusePort: true }))
  }

  get port(): number {
    return this.#socket.address().port
  }

  /** Answers what was held, and what comes from now on. */
  serve(serving: Serving, log: Log): void {
    const held = this.#state.kind === 'holding' ? this.#state.packets : []
    this.#state = { kind: 'serving', serving }
    this.#socket.on('error', (error) => log.debug('a DNS reply could not be sent', { error }))
    for (const [packet, from] of held) this.#received(packet, from)
  }

  /** What has arrived is answered first. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const limit = Promise.withResolvers<void>()
    const timer = setTimeout(limit.resolve, LATE_REPLY_MS)
    await Promise.race([Promise.allSettled(this.#late), limit.promise])
    clearTimeout(timer)
    await closeWhenIdle([this.#socket], 'message')
    this.#state = { kind: 'closed' }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Replies from the table are sent before the next packet is read. */
  #received(packet: Buffer, from: RemoteInfo): void {
    const state = this.#state
    if (state.kind === 'closed') return
    if (state.kind === 'holding') {
      if (state.packets.length < HELD_LIMIT) state.packets.push([packet, from])
      return
    }
    if (from.port === 0 || !state.serving.admits(from.address)) return // nowhere to answer to, or not allowed to ask
    const reply = state.serving.respond(packet, from)
    if (!(reply instanceof Promise)) return this.#send(reply, from)
    const late = reply.then((bytes) => this.#send(bytes, from)).finally(() => this.#late.delete(late))
    this.#late.add(late)
  }

  #send(reply: Buffer | undefined, to: RemoteInfo): void {
    if (reply !== undefined && this.#state.kind !== 'closed') this.#socket.send(reply, to.port, to.address)
  }
}

function bind({ host, port }: SharedAddress, { reusePort }: { reusePort: boolean }): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const family = isIPv6(host) ? 6 : 4
    const socket = createSocket({
      type: `udp${family}`,
      reusePort,
      recvBufferSize: RECEIVE_BYTES,
      // Only addresses come here; Node's own look-up would cost each reply a turn of the event loop.
      lookup: (address, _options, found) => found(null, address, family),
    })
    const failed = (cause: Error) => {
      socket.close()
      reject(cause)
    }
    socket.once('error', failed)
    socket.bind(port, host, () => {
      socket.off('error', failed)
      resolve(socket)
    })
  })
}
