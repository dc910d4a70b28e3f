import { unmapped } from '../../src/core/kit/host-port.ts'
import type { DatagramIntent, DatagramSink } from '../flow/flow.ts'
import { DatagramListener, type UdpSender } from '../intercept/datagrams.ts'
import { targetOf } from '../intercept/target-of.ts'
import type { GatewayParts } from './parts.ts'
import type { GatewayPort, GatewayTarget } from './rules.ts'

/**
 * All strangers are one user of the agent's places for UDP flows (proxy/datagrams/places.ts): source addresses are easily forged, and
 * a flood of them must make room for itself, not for programs of the node.
 */
const STRANGERS = 'strangers at the gateway'

/** A UDP port of the gateway: one flow for each client address and port. */
export class UdpListener {
  readonly #listener: DatagramListener

  private constructor(listener: DatagramListener) {
    this.#listener = listener
  }

  /** @throws the system's error */
  static open({ listen, to }: GatewayPort, parts: GatewayParts): UdpListener {
    const take = (sender: UdpSender) => (to === undefined ? undefined : takeFrom(sender, listen.port, to, parts))
    return new UdpListener(DatagramListener.open({ address: listen.host, port: listen.port }, take))
  }

  get size(): number {
    return this.#listener.size
  }

  async close(): Promise<void> {
    this.#listener.close()
  }
}

function takeFrom(
  sender: UdpSender,
  localPort: number,
  to: GatewayTarget,
  { limits, metrics, clock, onDatagramClient, ...parts }: GatewayParts,
): DatagramSink | undefined {
  const leave = limits.enter(sender.address)
  metrics.gatewayConnections.inc({ outcome: leave === undefined ? 'limited' : 'taken' })
  if (leave === undefined) return undefined
  const client = unmapped(sender.address)
  const intent = async (): Promise<DatagramIntent> => {
    const found = await targetOf(to.name, to.port, parts, 'udp')
    if (found.kind === 'refused') return { kind: 'refused', name: to.name, reason: found.reason }
    return { kind: 'target', target: found.target, caller: { kind: 'node', client } }
  }
  const sink = onDatagramClient?.({
    from: { protocol: 'udp', remoteAddress: STRANGERS, remotePort: sender.port, localPort },
    port: to.port,
    mode: 'gateway',
    startedAt: clock.now(),
    intent: intent(),
    answer: (payload) => sender.answer(payload),
    ended: () => {
      leave()
      sender.ended()
    },
  })
  if (sink === undefined) leave()
  return sink
}
