import type { Socket } from 'node:net'
import { type Ends, endsOf } from '../../src/core/kit/local-users.ts'
import { type UserFlow, UserFlows, type UserFlowsOptions } from './user-flows.ts'

/** The part of all connections that those of one user may be. Larger: less is left for others. */
const SHARE = 0.75

/** How many connections the users of this machine may have open, over VIPs and proxies together. */
export class UserLimits {
  readonly #flows: UserFlows<Connection>

  constructor(options: UserFlowsOptions) {
    const most = options.capacity * SHARE
    this.#flows = new UserFlows(options, (user) => {
      const hasRoom = this.#flows.of(user).size < most
      if (!hasRoom) this.#flows.refused(user)
      return hasRoom
    })
  }

  /** Counts this connection until it is closed; false when its user has too many. */
  enter(socket: Socket): boolean | Promise<boolean> {
    return this.#flows.enter(new Connection(socket))
  }
}

class Connection implements UserFlow {
  readonly #socket: Socket

  constructor(socket: Socket) {
    this.#socket = socket
  }

  /** Asked while the connection is open: a closed one has no addresses any longer. */
  get ends(): Ends {
    return endsOf(this.#socket)
  }

  get isOver(): boolean {
    return this.#socket.destroyed
  }

  whenOver(listener: () => void): void {
    this.#socket.on('close', listener) // it comes once
  }
}
