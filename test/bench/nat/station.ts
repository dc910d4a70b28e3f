import { fork, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import type { Host } from '../../../src/lab/host.ts'

/** Where a service is called. */
export interface At {
  host: string
  port: number
}

/** A question to a station, by its verb; what it answers is `Answers`. */
export type Ask =
  | { ask: 'name'; name: string; server: string }
  | { ask: 'byte'; at: At; protocol: 'tcp' | 'udp'; limitMs: number }
  | { ask: 'take'; at: At; protocol: 'tcp' | 'udp'; bytes: number; streams: number; limitMs: number }
  | ({ ask: 'requests'; at: At } & RequestsOptions)
  | { ask: 'flows'; at: At; flows: number }
  | { ask: 'flows-over' }

export interface RequestsOptions {
  flows: number
  seconds: number
  /** Between an answer and the next request, at most. */
  thinkMs: number
  /** Beside them, one that takes all it can get. */
  hasBulk: boolean
  /** One TLS connection a flow, without any mesh. */
  isTls: boolean
}

export interface Answers {
  name: { ms: number; address: string }
  /** `ms` until a byte came back, from before the connection. */
  byte: { ms: number }
  take: { mbps: number }
  requests: { perSecond: number; p50: number; p95: number; bulkMbps: number }
  flows: { open: number }
  'flows-over': FlowsReport
}

/** What checked flows went through, all together. */
export interface FlowsReport {
  flows: number
  /** Ended by something else than us. */
  lost: number
  bytes: number
  /** Sent and not come back, or come back wrong. */
  bytesLost: number
  /** The longest time in which a flow got nothing, of the flow that had the longest. */
  longestPauseMs: number
  /** The same of a flow of datagrams beside them, and how many of those did not come back. */
  longestDatagramPauseMs: number
  datagramsLost: number
}

export type ToStation = Ask & { id: number }
export type FromStation = { id: number; answer: unknown } | { id: number; error: string } | { ready: true }

/** TCP and UDP port of the origin, and its port with TLS. */
export const ORIGIN_PORT = 9_000
export const ORIGIN_TLS_PORT = 9_001

/** A program beside an agent: the origin of its node's service, and the caller of the others'. One for a whole run. */
export class Station implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #asked = new Map<number, PromiseWithResolvers<unknown>>()
  #count = 0

  private constructor(child: ChildProcess) {
    this.#child = child
  }

  /** `tls`: where key and certificate are, for an origin that speaks it too. */
  static async start(host: Host, env: NodeJS.ProcessEnv, tls = ''): Promise<Station> {
    const child = fork(join(import.meta.dirname, 'station-program.ts'), [tls], {
      execPath: 'ip',
      execArgv: ['netns', 'exec', host.namespace, process.execPath],
      env: { ...process.env, ...env },
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    const station = new Station(child)
    const ready = Promise.withResolvers<void>()
    child.on('message', (said: FromStation) => {
      if ('ready' in said) return ready.resolve()
      const asked = station.#asked.get(said.id)
      station.#asked.delete(said.id)
      if ('error' in said) asked?.reject(new Error(said.error))
      else asked?.resolve(said.answer)
    })
    child.on('exit', (code, signal) => {
      const error = new Error(`the station of ${host.name} ended: ${signal ?? `code ${code}`}`)
      ready.reject(error)
      for (const asked of station.#asked.values()) asked.reject(error)
    })
    await ready.promise
    return station
  }

  /** @throws Error with the station's reason */
  ask<A extends Ask>(question: A): Promise<Answers[A['ask']]> {
    const id = this.#count++
    const asked = Promise.withResolvers<unknown>()
    this.#asked.set(id, asked)
    this.#child.send({ ...question, id })
    return asked.promise as Promise<Answers[A['ask']]>
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exited = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.kill('SIGKILL')
    await exited
  }
}
