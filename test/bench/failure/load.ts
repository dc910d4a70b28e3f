/**
 * A client, open-loop: a request every 5 ms whatever the answers do. Each asks the name server, opens a connection and waits for the
 * whole answer, as a program does that keeps nothing.
 *
 *     node load.ts '{"name", "port", "server", "everyMs", "limitMs"}'       until SIGTERM; then one JSON line (Samples)
 */
import { Resolver } from 'node:dns/promises'
import { connect } from 'node:net'

export interface Pace {
  /** Between two requests. */
  everyMs: number
  /** A request without a whole answer by then has failed. */
  limitMs: number
}

export interface Calls extends Pace {
  name: string
  port: number
  /** The name server. */
  server: string
}

export const PACE: Pace = { everyMs: 5, limitMs: 2_000 }

/** Times in milliseconds of the machine's monotonic clock, which all its processes share. */
export interface Samples {
  /** In the order of sending: when, for how long, and by whom it was answered; -1 - i stands for `errors[i]`. */
  requests: readonly (readonly [sentAt: number, tookMs: number, what: number])[]
  errors: readonly string[]
  /** What the answers said: which process of which version. */
  answers: readonly string[]
  /** The longest time that the client itself was kept from sending, in milliseconds. */
  stoodStillMs: number
}

export function monotonicMs(): number {
  return Number(process.hrtime.bigint() / 1_000n) / 1_000
}

/** Requests that are late by this are still sent. Larger: after a pause of the machine a burst, as no client sends it. */
const CAUGHT_UP_MS = 100

class Load {
  readonly #calls: Calls
  readonly #resolver = new Resolver({ timeout: 1_000, tries: 2 })
  readonly #requests: [number, number, number][] = []
  readonly #errors: string[] = []
  readonly #answers: string[] = []
  readonly #open = new Set<Promise<void>>()

  constructor(calls: Calls) {
    this.#calls = calls
    this.#resolver.setServers([calls.server])
  }

  /** The function returned ends it: it waits for the answers that are still due. */
  start(): () => Promise<Samples> {
    const { everyMs } = this.#calls
    let due = monotonicMs()
    let stoodStillMs = 0
    const ticks = setInterval(() => {
      const late = monotonicMs() - due
      stoodStillMs = Math.max(stoodStillMs, late)
      if (late > CAUGHT_UP_MS) due += late // the machine was away: what was not sent then is not sent at once now
      for (; due <= monotonicMs(); due += everyMs) this.#send()
    }, everyMs)
    return async () => {
      clearInterval(ticks)
      await Promise.all(this.#open)
      const [requests, errors, answers] = [this.#requests, this.#errors, this.#answers]
      return { requests, errors, answers, stoodStillMs: rounded(stoodStillMs) }
    }
  }

  #send(): void {
    const sentAt = monotonicMs()
    const sample: [number, number, number] = [rounded(sentAt), this.#calls.limitMs, 0]
    this.#requests.push(sample)
    const asked = this.#ask()
      .then(
        (answer) => (sample[2] = indexIn(this.#answers, answer)),
        (error: NodeJS.ErrnoException) => (sample[2] = -1 - indexIn(this.#errors, error.code ?? error.message)),
      )
      .then(() => {
        sample[1] = rounded(monotonicMs() - sentAt)
        this.#open.delete(asked)
      })
    this.#open.add(asked)
  }

  async #ask(): Promise<string> {
    const { name, port, limitMs } = this.#calls
    const signal = AbortSignal.timeout(limitMs)
    const late = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(new Error(`no answer in ${limitMs} ms`)))
    })
    const [host = ''] = await Promise.race([this.#resolver.resolve4(name), late])
    return Promise.race([get(host, port, signal), late])
  }
}

function get(host: string, port: number, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port })
    signal.addEventListener('abort', () => socket.destroy())
    let text = ''
    socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk))
    socket.on('error', reject)
    socket.on('close', () => {
      const [head = '', body = ''] = text.split('\r\n\r\n')
      if (/^HTTP\/1.1 200 /.test(head) && body.endsWith('\n')) resolve(body.trim())
      else reject(new Error(text === '' ? 'closed without an answer' : 'half an answer'))
    })
    socket.write('GET / HTTP/1.0\r\n\r\n')
  })
}

function indexIn(list: string[], text: string): number {
  const at = list.indexOf(text)
  return at >= 0 ? at : list.push(text) - 1
}

function rounded(ms: number): number {
  return Math.round(ms * 10) / 10
}

if (import.meta.main) {
  const stop = new Load(JSON.parse(process.argv[2] ?? '') as Calls).start()
  process.on('SIGTERM', () => {
    void stop().then((samples) => {
      console.log(JSON.stringify(samples))
      process.exit()
    })
  })
  console.log('started')
}
