import { BoundSocket, createServer, type Server, type Socket } from 'node:net'
import type { DatagramSink } from '../flow/flow.ts'
import { DatagramListener, type UdpSender } from './datagrams.ts'
import { BACKLOG, type Problem } from './interceptor.ts'
import { portHolder, problemOf } from './listen-problem.ts'
import type { VipPort } from './vip-ports.ts'

/*
 *   closed ──open──▶ open ──close──▶ closed
 *     ▲                │ the system reports an error
 *     └──── failed ◀───┘ tried again later
 */
type State =
  | { kind: 'closed' }
  | { kind: 'open'; listening: Server | DatagramListener }
  | { kind: 'failed'; problem: Problem; holder?: Promise<string | undefined> }

/** What becomes of what a listener takes. */
export interface VipListenerOwner {
  tookSocket(at: VipPort, socket: Socket): void
  /** `undefined`: there is no room for this client. */
  tookDatagramFrom(at: VipPort, client: UdpSender): DatagramSink | undefined
  /** The number of open listeners changes by one. */
  opened(): void
  closed(): void
  failed(at: VipPort, problem: Problem): void
}

/** The listener of one VIP and port. */
export class VipListener {
  readonly at: VipPort
  readonly #owner: VipListenerOwner
  #state: State = { kind: 'closed' }

  constructor(at: VipPort, owner: VipListenerOwner) {
    this.at = at
    this.#owner = owner
  }

  get isOpen(): boolean {
    return this.#state.kind === 'open'
  }

  get problem(): Problem | undefined {
    return this.#state.kind === 'failed' ? this.#state.problem : undefined
  }

  /** The TCP server, while it listens. */
  get server(): Server | undefined {
    const state = this.#state
    return state.kind === 'open' && !(state.listening instanceof DatagramListener) ? state.listening : undefined
  }

  /** Whether a client has a flow that came in here. */
  hasFlows(): Promise<boolean> {
    const state = this.#state
    if (state.kind !== 'open') return Promise.resolve(false)
    const { listening } = state
    if (listening instanceof DatagramListener) return Promise.resolve(listening.size > 0)
    return new Promise((resolve) => listening.getConnections((_error, count) => resolve(count > 0)))
  }

  /** After a failure: the program that answers here instead, as a sentence; `undefined`: callers are refused. */
  readonly obstacle = async (): Promise<string | undefined> => {
    const state = this.#state
    if (state.kind !== 'failed') return undefined
    const { port, protocol } = this.at
    state.holder ??= portHolder(this.at).catch(() => undefined)
    const holder = await state.holder
    return holder && `${holder} has port ${port}/${protocol} of every address and would answer instead`
  }

  /**
   * Bound when this returns, unless it has failed, because a client may connect as soon as its name is answered. Shared
   * (SO_REUSEPORT) with the agent that takes over. `listeningPort` is where the kernel sends connections to our port.
   */
  open(listeningPort: number): void {
    if (this.isOpen) return
    try {
      const listening = this.at.protocol === 'udp' ? this.#openUdp(listeningPort) : this.#openTcp(listeningPort)
      this.#state = { kind: 'open', listening }
      this.#owner.opened()
    } catch (error) {
      this.#fail(error as NodeJS.ErrnoException)
    }
  }

  /** Flows over TCP that are open go on; those over UDP end, because nothing could be answered. */
  close(): void {
    const state = this.#state
    this.#state = { kind: 'closed' }
    if (state.kind !== 'open') return
    state.listening.close()
    this.#owner.closed()
  }

  #openUdp(port: number): DatagramListener {
    const { address } = this.at
    return DatagramListener.open({ address, port }, (client) => this.#owner.tookDatagramFrom(this.at, client))
  }

  #openTcp(port: number): Server {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) =>
      this.#owner.tookSocket(this.at, socket),
    )
    server.on('error', (error: NodeJS.ErrnoException) => {
      if (this.server !== server) return
      this.close()
      this.#fail(error)
    })
    server.listen(new BoundSocket({ host: this.at.address, port, ipv6Only: true, reusePort: true }), BACKLOG)
    return server
  }

  #fail(error: NodeJS.ErrnoException): void {
    const problem = problemOf(error, this.at)
    this.#state = { kind: 'failed', problem }
    this.#owner.failed(this.at, problem)
  }
}
