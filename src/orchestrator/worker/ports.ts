import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import { MeshError } from '../../core/errors.ts'

export type Protocol = 'tcp' | 'udp'

/** Below the ephemeral range (32768 on Linux): no outgoing connection can take the port while an instance restarts. */
const FIRST = 20_000
const COUNT = 12_000

/** Hands out ports of 127.0.0.1 that are free now, no port twice. */
export class PortPool {
  readonly #taken = new Set<string>()
  readonly #random: () => number

  constructor(random: () => number = Math.random) {
    this.#random = random
  }

  /** `preferred` if it is still free, else another. */
  async take(protocol: Protocol, preferred?: number): Promise<number> {
    if (preferred !== undefined && (await this.#claim(protocol, preferred))) return preferred
    const start = Math.floor(this.#random() * COUNT)
    for (let i = 0; i < COUNT; i++) {
      const port = FIRST + ((start + i) % COUNT)
      if (await this.#claim(protocol, port)) return port
    }
    throw new MeshError('RUNTIME_FAILED', {
      reason: `no ${protocol} port between ${FIRST} and ${FIRST + COUNT} is free`,
    })
  }

  /** Somebody that we adopted listens there. */
  keep(protocol: Protocol, port: number): void {
    this.#taken.add(`${protocol}/${port}`)
  }

  release(protocol: Protocol, port: number): void {
    this.#taken.delete(`${protocol}/${port}`)
  }

  async #claim(protocol: Protocol, port: number): Promise<boolean> {
    const key = `${protocol}/${port}`
    if (this.#taken.has(key)) return false
    this.#taken.add(key) // before the wait: two instances that start together must not both find it free
    if (await isFree(protocol, port)) return true
    this.#taken.delete(key)
    return false
  }
}

/** Whether a program could listen there now. */
export function isFree(protocol: Protocol, port: number, host = '127.0.0.1'): Promise<boolean> {
  const where = { host, port, exclusive: true }
  return new Promise((resolve) => {
    if (protocol === 'tcp') {
      const server = createServer()
      server.once('error', () => resolve(false))
      server.listen(where, () => server.close(() => resolve(true)))
    } else {
      const socket = createSocket('udp4')
      socket.once('error', () => {
        socket.close()
        resolve(false)
      })
      socket.bind({ address: where.host, port, exclusive: true }, () => socket.close(() => resolve(true)))
    }
  })
}
