import type { Socket } from 'node:dgram'
import { boundSocket } from '../socket/udp-socket.ts'

/** Between two probes. Smaller: more wake-ups; larger: VIPs are refused for longer after somebody has flushed all rules. */
const PROBE_MS = 250

export interface ProbedPort {
  readonly address: string
  readonly asked: number
  readonly listening: number
}

/**
 * Notices at once when the rules of the machine are flushed (`systemctl restart nftables`), without a process of nft: a
 * datagram to a port that the rules rewrite arrives only while they are there.
 */
export class RuleProbe implements Disposable {
  readonly #socket: Socket
  readonly #timer: NodeJS.Timeout
  #isAwaited = false

  /** @throws the system's error */
  constructor({ address, asked, listening }: ProbedPort, onMissing: () => void) {
    this.#socket = boundSocket({ address, port: listening }, { reusePort: true })
    this.#socket.unref()
    this.#socket.on('message', () => (this.#isAwaited = false))
    this.#timer = setInterval(() => {
      if (this.#isAwaited) onMissing()
      this.#isAwaited = true
      this.#socket.send('', asked, address)
    }, PROBE_MS)
    this.#timer.unref()
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer)
    this.#socket.close()
  }
}
