import type { Socket } from 'node:net'
import { background } from '../../src/core/kit/background.ts'
import type { LocalSources } from '../../src/core/kit/local-sources.ts'
import type { Target } from '../../src/core/table/view.ts'
import type { Caller, DatagramIntent, DatagramSink } from '../flow/flow.ts'
import { resetSocket } from '../socket/reset.ts'
import type { UdpSender } from './datagrams.ts'
import type { AskedVips } from './asked-vips.ts'
import type { CallerEnd, Identify, InterceptParts } from './interceptor.ts'
import type { VipPort } from './vip-ports.ts'

export interface VipCallsParts {
  readonly mode: 'loopback' | 'host'
  readonly sources: Pick<LocalSources, 'admits'>
  readonly identify: Identify
  readonly parts: InterceptParts
  /** A VIP that is called is held, however the caller learned of it. */
  readonly asked: Pick<AskedVips, 'note'>
}

/** Turns what the VIP listeners take into flows: only from sources that are admitted, and with the caller's identity. */
export class VipCalls {
  readonly #mode: 'loopback' | 'host'
  readonly #sources: Pick<LocalSources, 'admits'>
  readonly #identify: Identify
  readonly #parts: InterceptParts
  readonly #asked: Pick<AskedVips, 'note'>

  constructor({ mode, sources, identify, parts, asked }: VipCallsParts) {
    this.#mode = mode
    this.#sources = sources
    this.#identify = identify
    this.#parts = parts
    this.#asked = asked
  }

  tookSocket(at: VipPort, socket: Socket): void {
    socket.on('error', () => undefined)
    if (!this.#sources.admits(socket.remoteAddress, this.#mode)) return resetSocket(socket)
    void background.run('vip listener', () => this.#begin(at, socket))
  }

  /** `undefined`: the datagram is dropped. */
  tookDatagramFrom({ vip, address, port }: VipPort, sender: UdpSender): DatagramSink | undefined {
    const { table, clock, onDatagramClient } = this.#parts
    if (!this.#sources.admits(sender.address, this.#mode)) return undefined
    const target = table.byVip(vip)
    if (target === undefined) return undefined
    this.#asked.note(vip, target.service.id)
    const intent = (caller: Caller | undefined): DatagramIntent =>
      caller === undefined
        ? { kind: 'refused', name: target.service.id, reason: UNIDENTIFIED }
        : { kind: 'target', target, caller }
    const found = this.#identify(sender, target)
    return onDatagramClient?.({
      from: { protocol: 'udp', remoteAddress: sender.address, remotePort: sender.port, localAddress: address },
      port,
      mode: this.#mode,
      startedAt: clock.now(),
      intent: found instanceof Promise ? found.then(intent) : intent(found),
      answer: (payload) => sender.answer(payload),
      ended: () => sender.ended(),
    })
  }

  /** Waits for nothing that is known already: nearly always the flow begins in this very call. */
  #begin(at: VipPort, socket: Socket): void | Promise<void> {
    const startedAt = this.#parts.clock.now()
    const hasRoom = this.#parts.userLimits?.enter(socket) ?? true
    if (hasRoom === true) return this.#identifyCaller(at, socket, startedAt)
    if (hasRoom === false) return resetSocket(socket)
    return hasRoom.then((has) => (has ? this.#identifyCaller(at, socket, startedAt) : resetSocket(socket)))
  }

  #identifyCaller(at: VipPort, socket: Socket, startedAt: number): void | Promise<void> {
    const target = this.#parts.table.byVip(at.vip)
    if (target === undefined) return resetSocket(socket)
    this.#asked.note(at.vip, target.service.id)
    const mode = this.#mode
    const begin = (caller: Caller | undefined): void => {
      if (caller === undefined) this.#refuse(at, socket, target)
      else this.#parts.onFlow({ target, port: at.port, socket, caller, mode, startedAt })
    }
    const caller = this.#identify(callerEnd(socket, at), target)
    return caller instanceof Promise ? caller.then(begin) : begin(caller)
  }

  #refuse({ vip, port }: VipPort, socket: Socket, { service }: Target): void {
    this.#parts.log.warn('flow refused', { vip, port, service: service.id, reason: UNIDENTIFIED })
    resetSocket(socket)
  }
}

const UNIDENTIFIED = 'the caller cannot be identified'

/** The caller's socket is connected to the port that it asked for, wherever the listener is bound. */
function callerEnd({ remoteAddress, remotePort }: Socket, { address, port }: VipPort): CallerEnd {
  const local = { address: remoteAddress ?? '', port: remotePort ?? 0 }
  return { protocol: 'tcp', local, remote: { address, port } }
}
