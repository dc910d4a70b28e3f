import { get } from 'node:http'
import { eventually } from '../cli/program.ts'
import type { SeparateProcesses } from './separate-processes.ts'

/** Calls of one program, one after the other, each with a connection of its own. */
export class Calls implements AsyncDisposable {
  readonly #host: string
  readonly #running: Promise<void>
  readonly failures: string[] = []
  count = 0
  last = ''
  #isStopped = false

  private constructor(host: string) {
    this.#host = host
    this.#running = this.#run()
  }

  /** To port 8080 of a name, as a program of the node `from`. */
  static async to(
    mesh: SeparateProcesses,
    { from, name, first }: { from: string; name: string; first: string },
  ): Promise<Calls> {
    const { ipv4 } = await mesh.machines.json<{ ipv4: string }>(from, 'resolve', name)
    const calls = new Calls(ipv4)
    await calls.answeredBy(first)
    calls.failures.length = 0 // of the time before its address was served
    return calls
  }

  async answeredBy(version: string): Promise<void> {
    await eventually(async () => this.last.startsWith(`${version} `), `${version} answers`, 40_000)
  }

  /** However soon what was tried is over, it is judged by more than 500 calls. */
  async areMany(): Promise<void> {
    await eventually(async () => this.count > 500, 'there were many calls', 40_000)
  }

  async stop(): Promise<this> {
    this.#isStopped = true
    await this.#running
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      this.count += 1
      try {
        this.last = await this.#call()
      } catch (error) {
        if (this.failures.length < 20) this.failures.push(`call ${this.count} after ${this.last}: ${String(error)}`)
      }
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }

  #call(): Promise<string> {
    return new Promise((resolve, reject) => {
      const request = get({ host: this.#host, port: 8_080, agent: false, timeout: 5_000 }, (response) => {
        let body = ''
        response.setEncoding('utf8').on('data', (text: string) => (body += text))
        response.once('end', () => resolve(body)).once('error', reject)
      })
      request.once('error', reject).once('timeout', () => request.destroy(new Error('no answer within 5 s')))
    })
  }
}
