import type { InstanceId } from '../../src/core/model/ids.ts'
import type { DialOptions, Endpoint } from '../socket/dial.ts'
import type { IncomingStream, Refusal } from '../tunnel/contract.ts'
import { InstanceSocket, openInstanceSocket } from '../socket/instance-socket.ts'
import { DatagramPipe } from '../socket/datagram-pipe.ts'

/** Where a flow goes, as the check of its request found. */
export interface InstancePort {
  instance: InstanceId
  port: number
  endpoint: Endpoint
}

export interface JoinEvents {
  joined(pipe: DatagramPipe): void
  failed(refusal: Refusal, reason: string): void
  /** Once, after `joined`. */
  ended(pipe: DatagramPipe): void
}

export interface DatagramInboundParts {
  readonly endpointOf: (instance: InstanceId, port: number, protocol: 'udp') => Endpoint | undefined
  readonly isDraining: (instance: InstanceId) => boolean
}

/**
 * UDP flows of other nodes, on the instance's node. Each has a socket of its own, so that no two clients are confused. The
 * caller's node ends them; here they end early when their instance leaves, since its port may be another's next.
 */
export class DatagramInbound {
  readonly #parts: DatagramInboundParts
  readonly #open = new Map<DatagramPipe, InstancePort & { seen: number }>()

  constructor(parts: DatagramInboundParts) {
    this.#parts = parts
  }

  /** Opens the instance's socket and joins it to the other node's stream; the returned function gives up before that. */
  join(incoming: IncomingStream, place: InstancePort, options: DialOptions, events: JoinEvents): () => void {
    return openInstanceSocket(place.endpoint, options, {
      opened: (socket) => {
        const pipe: DatagramPipe = new DatagramPipe(() => {
          this.#open.delete(pipe)
          events.ended(pipe)
        })
        pipe.far.stream = new InstanceSocket(socket, pipe.far)
        pipe.near.stream = incoming.acceptDatagrams(pipe.near)
        this.#open.set(pipe, { ...place, seen: 0 })
        events.joined(pipe)
      },
      failed: (refusal, reason) => events.failed(refusal, reason),
    })
  }

  /** Ends flows that lost their instance, and silent flows while their instance or this agent (`isClosing`) drains. */
  sweep(isClosing = false): void {
    for (const [pipe, flow] of this.#open) {
      const isDraining = isClosing || this.#parts.isDraining(flow.instance)
      if (isDraining && pipe.activity === flow.seen) pipe.finish('closed')
      else if (!isDraining && this.#hasMoved(flow)) pipe.cut()
      flow.seen = pipe.activity
    }
  }

  #hasMoved({ instance, port, endpoint }: InstancePort): boolean {
    const now = this.#parts.endpointOf(instance, port, 'udp')
    return now?.host !== endpoint.host || now.port !== endpoint.port
  }
}
