import type { Testbed } from '../testbed.ts'

export interface Requests {
  readonly connections: number
  readonly seconds: number
  /** A new connection for each request: the server ends each after its answer. */
  readonly isFresh?: boolean
  /** A command that runs it. */
  readonly under?: readonly string[]
}

export interface Answered {
  perSecond: number
  /** Latencies in ms. */
  p50: number
  p99: number
  requests: number
  errors: number
}

/** HTTP requests from side a, by wrk with one thread. @throws when nothing was answered. */
export async function wrk(
  testbed: Testbed,
  url: string,
  { connections, seconds, isFresh = false, under = [] }: Requests,
): Promise<Answered> {
  const fresh = isFresh ? ['-H', 'Connection: close'] : []
  const load = ['-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '10s', '--latency']
  const said = await testbed.text('a', [...under, 'wrk', ...load, ...fresh, url], (seconds + 30) * 1_000)
  const answered = readWrk(said)
  if (!(answered.perSecond > 0)) throw new Error(`no request was answered at ${url}`)
  return answered
}

/** What wrk prints, read. */
export function readWrk(said: string): Answered {
  const errors = /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(said)?.slice(1) ?? []
  return {
    perSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(said)?.[1]),
    p50: milliseconds(/50%\s+([\d.]+\w+)/.exec(said)?.[1]),
    p99: milliseconds(/99%\s+([\d.]+\w+)/.exec(said)?.[1]),
    requests: Number(/(\d+) requests in /.exec(said)?.[1]),
    errors: errors.reduce((sum, count) => sum + Number(count), 0),
  }
}

function milliseconds(text = ''): number {
  const value = Number.parseFloat(text)
  if (text.endsWith('us')) return value / 1_000
  return text.endsWith('ms') ? value : value * 1_000
}
