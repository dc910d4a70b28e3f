import type { Socket } from 'node:net'
import { background } from '../../src/core/kit/background.ts'
import type { LocalSources } from '../../src/core/kit/local-sources.ts'
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

  async #begin(at: VipPort, socket: Socket): Promise<void> {
    const { table, clock, onFlow, log, userLimits } = this.#parts
    const { vip, port } = at
    const startedAt = clock.now()
    const hasRoom = userLimits?.enter(socket) ?? true
    if (hasRoom instanceof Promise ? !(await hasRoom) : !hasRoom) return resetSocket(socket)
    const target = table.byVip(vip)
    if (target === undefined) return resetSocket(socket)
    this.#asked.note(vip, target.service.id)
    const found = this.#identify(callerEnd(socket, at), target)
    const caller = found instanceof Promise ? await found : found
    if (caller === undefined) {
      log.warn('flow refused', { vip, port, service: target.service.id, reason: UNIDENTIFIED })
      return resetSocket(socket)
    }
    onFlow({ target, port, socket, caller, mode: this.#mode, startedAt })
  }
}

const UNIDENTIFIED = 'the caller cannot be identified'

/** The caller's socket is connected to the port that it asked for, wherever the listener is bound. */
function callerEnd({ remoteAddress, remotePort }: Socket, { address, port }: VipPort): CallerEnd {
  const local = { address: remoteAddress ?? '', port: remotePort ?? 0 }
  return { protocol: 'tcp', local, remote: { address, port } }
}
