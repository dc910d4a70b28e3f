import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'

/** Carries connections to a server until it is cut: then nothing arrives on either side, and nothing is closed. */
export class Cable implements AsyncDisposable {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #isCut = false
  #connections = 0
  #answered = Number.POSITIVE_INFINITY

  private constructor(target: URL) {
    this.#server = createServer((near) => {
      const far = connect({ host: target.hostname, port: Number(target.port) })
      for (const socket of [near, far]) {
        this.#sockets.add(socket)
        socket.on('error', () => undefined).on('close', () => this.#sockets.delete(socket))
      }
      this.#connections += 1
      const isAnswered = this.#connections <= this.#answered
      let asked = 0
      near.on('data', () => (asked += 1))
      this.#carry(near, far)
      this.#carry(far, near, () => isAnswered || asked < 2) // the first is a ClientHello
    })
  }

  static async to(url: string): Promise<Cable> {
    const cable = new Cable(new URL(url))
    await once(cable.#server.listen(0, '127.0.0.1'), 'listening')
    return cable
  }

  get url(): string {
    return `https://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  cut(): void {
    this.#isCut = true
  }

  /** So many more TLS connections are as usual; of each later one all arrives at the server, and no answer at the client. */
  loseAnswers({ after }: { after: number }): void {
    this.#answered = this.#connections + after
  }

  /** What was cut is not resumed: the ends must connect again. */
  mend(): void {
    this.#isCut = false
    this.#answered = Number.POSITIVE_INFINITY
    for (const socket of this.#sockets) socket.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.mend()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #carry(from: Socket, to: Socket, arrives = () => true): void {
    from.on('data', (bytes) => this.#isCut || !arrives() || to.write(bytes))
    from.on('close', () => this.#isCut || to.destroy())
  }
}
