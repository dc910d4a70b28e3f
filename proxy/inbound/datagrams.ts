import type { InstanceId } from '../../src/core/model/ids.ts'
import type { DialOptions, Endpoint } from '../socket/dial.ts'
import type { IncomingStream, Refusal } from '../tunnel/contract.ts'
import { InstanceSocket, openInstanceSocket } from '../socket/instance-socket.ts'
import { DatagramPipe } from '../socket/datagram-pipe.ts'

/** Where a flow goes, as the check of its request found it. */
export interface InstancePort {
  instance: InstanceId
  port: number
  endpoint: Endpoint
}

export interface JoinEvents {
  joined(joint: DatagramPipe): void
  failed(refusal: Refusal, reason: string): void
  /** Once, after `joined`. */
  ended(joint: DatagramPipe): void
}

export interface DatagramInboundParts {
  readonly endpointOf: (instance: InstanceId, port: number, protocol: 'udp') => Endpoint | undefined
  readonly isDraining: (instance: InstanceId) => boolean
}

/**
 * UDP flows of other nodes, on the instance's node: each has a socket of its own, so that no two clients are confused. The
 * caller's node ends them; here they end early when their instance leaves, because its port may be another's next.
 */
export class DatagramInbound {
  readonly #parts: DatagramInboundParts
  readonly #open = new Map<DatagramPipe, InstancePort & { seen: number }>()

  constructor(parts: DatagramInboundParts) {
    this.#parts = parts
  }

  /** Opens the instance's socket and joins it to the other node's stream; the returned function gives up before that. */
  join(incoming: IncomingStream, place: InstancePort, options: DialOptions, told: JoinEvents): () => void {
    return openInstanceSocket(place.endpoint, options, {
      opened: (socket) => {
        const joint: DatagramPipe = new DatagramPipe(() => {
          this.#open.delete(joint)
          told.ended(joint)
        })
        joint.far.stream = new InstanceSocket(socket, joint.far)
        joint.near.stream = incoming.acceptDatagrams(joint.near)
        this.#open.set(joint, { ...place, seen: 0 })
        told.joined(joint)
      },
      failed: (refusal, reason) => told.failed(refusal, reason),
    })
  }

  /** Ends what has lost its instance, and what is silent while its instance or this agent (`isClosing`) drains. */
  sweep(isClosing = false): void {
    for (const [joint, flow] of this.#open) {
      const isDraining = isClosing || this.#parts.isDraining(flow.instance)
      if (isDraining && joint.activity === flow.seen) joint.finish('closed')
      else if (!isDraining && !this.#isThere(flow)) joint.cut()
      flow.seen = joint.activity
    }
  }

  #isThere({ instance, port, endpoint }: InstancePort): boolean {
    const now = this.#parts.endpointOf(instance, port, 'udp')
    return now !== undefined && now.host === endpoint.host && now.port === endpoint.port
  }
}
