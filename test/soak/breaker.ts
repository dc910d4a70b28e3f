import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'

/** How a path fails. */
export type Kill = 'rst' | 'fin' | 'torn' | 'blackhole'
export const KILLS: readonly Kill[] = ['rst', 'fin', 'torn', 'blackhole']

interface Pair {
  near: Socket
  far: Socket
}

/** A path over loopback that can be broken: passes bytes between a dialler and one port, until told otherwise. */
export class Breaker implements AsyncDisposable {
  readonly port: number
  readonly #server: Server
  readonly #target: number
  readonly #pairs = new Set<Pair>()
  #state: 'up' | 'down' | 'silent' = 'up'
  #tear = false

  private constructor(server: Server, target: number) {
    this.#server = server
    this.#target = target
    this.port = (server.address() as AddressInfo).port
    server.on('connection', (near: Socket) => this.#join(near))
  }

  static async start(target: number): Promise<Breaker> {
    const server = createServer({ allowHalfOpen: true })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Breaker(server, target)
  }

  get connections(): number {
    return this.#pairs.size
  }

  /** Breaks what is open, and lets nothing new through until `mend`. */
  kill(how: Kill): void {
    this.#state = how === 'blackhole' ? 'silent' : 'down'
    for (const { near, far } of this.#pairs) {
      if (how === 'rst') {
        near.resetAndDestroy()
        far.resetAndDestroy()
      } else if (how === 'fin') {
        near.end()
        far.end()
      } else if (how === 'torn') this.#tear = true // the next bytes are delivered by half
    }
  }

  /** What was silent stays dead: its bytes are lost, as behind a NAT that was restarted. */
  mend(): void {
    this.#state = 'up'
    this.#tear = false
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { near, far } of this.#pairs) {
      near.destroy()
      far.destroy()
    }
    this.#server.close()
    await once(this.#server, 'close')
  }

  #join(near: Socket): void {
    near.on('error', () => undefined)
    if (this.#state === 'down') return void near.resetAndDestroy()
    const far = connect({ port: this.#target, host: '127.0.0.1', allowHalfOpen: true })
    const pair = { near, far }
    let isSilent = this.#state === 'silent'
    this.#pairs.add(pair)
    const pass = (from: Socket, to: Socket) => {
      from.on('data', (chunk: Buffer) => {
        if (this.#state === 'silent') isSilent = true
        if (isSilent) return
        if (this.#tear) {
          to.write(chunk.subarray(0, chunk.length >>> 1), () => to.resetAndDestroy())
          return void from.resetAndDestroy()
        }
        if (!to.write(chunk)) from.pause()
      })
      to.on('drain', () => from.resume())
      from.on('end', () => {
        if (!isSilent) to.end()
      })
      from.on('error', () => undefined)
      from.on('close', () => {
        this.#pairs.delete(pair)
        if (!isSilent && this.#state !== 'silent') to.destroy()
        else setTimeout(() => to.destroy(), 20_000).unref()
      })
    }
    pass(near, far)
    pass(far, near)
  }
}
