import { readFile } from 'node:fs/promises'
import type { ClientRequest } from 'node:http'
import { connect, type Socket } from 'node:net'
import { get } from '../../core/kit/node-http.ts'
import { OWN_PROXY_HEADER } from '../../core/kit/proxy-header.ts'
import type { Clock } from '../../core/kit/clock.ts'
import { STEP_MS, stepsOf } from '../../core/kit/in-step.ts'
import type { CheckSpec, ServiceSpec } from '../spec.ts'
import { Listening } from './listening.ts'
import { endpointKey, type Endpoint, type Endpoints } from './runtime.ts'

/**
 *                 answers                       fails 3 times in a row
 *     waiting ───────────────▶ ready ───────────────────────────────────▶ waiting
 *             ◀ checked often             checked every `intervalMs`
 */
export interface Verdict {
  isReady: boolean
  failures: number
}

/** Fewer and one lost packet takes an instance out; more and callers meet a dead one for longer. */
const FAILURES = 3

/** What one more check of the port means. */
export function judge({ isReady, failures }: Verdict, fault: string | undefined): Verdict {
  if (fault === undefined) return { isReady: true, failures: 0 }
  return { isReady: isReady && failures + 1 < FAILURES, failures: failures + 1 }
}

/** What is checked: the SLA's check, else the first TCP port; `undefined` when there is nothing to check. */
export function checkOf(spec: ServiceSpec): CheckSpec | undefined {
  if (spec.oneShot) return undefined // a job is never called
  const tcp = spec.ports.find(({ protocol }) => protocol === 'tcp')
  if (spec.check !== undefined || tcp === undefined) return spec.check
  return { kind: 'tcp', port: tcp.port, path: '/', intervalMs: 2_000, timeoutMs: 1_000 }
}

/** After this many failed checks before the first success the reason is reported. */
const SLOW_START = 10
/** Between checks of an instance that is not ready yet: short, because a caller may be waiting for it. */
const FIRST_CHECK_MS = 25
const LAST_CHECK_MS = 500

export interface Watch {
  /** The document as it is now, and what is aborted when there is another. */
  now: () => { spec: ServiceSpec; changed: AbortSignal }
  endpoints: Endpoints
  /** The instance's own check, for a document without one: why it does not answer. */
  own?: (() => Promise<string | undefined>) | undefined
  clock: Clock
  /** What the kernel says of listeners; shared by all watches of this process by default. */
  listening?: Pick<Listening, 'keepsUp'>
  /** Called when it changes, with the reason while it is not ready. */
  onVerdict: (isReady: boolean, reason: string | undefined) => void
}

/** One kind of check, and how often it runs; it returns why the instance does not answer. */
interface Check {
  intervalMs: number
  run(signal: AbortSignal): Promise<string | undefined>
  /** Without a run: the instance answers, as far as can be known at a glance. Asked only while the last run succeeded. */
  isSpared?: () => boolean
}

/** Checks again and again, until the signal. Without anything to check, the instance is ready at once. */
export async function watchReadiness(
  { now, endpoints, own, clock, listening = ofThisMachine, onVerdict }: Watch,
  signal: AbortSignal,
): Promise<void> {
  let verdict: Verdict = { isReady: false, failures: 0 }
  let waitMs = FIRST_CHECK_MS
  const current = () => {
    const { spec, changed } = now()
    const check = ownCheckOf(spec, own) ?? checkKindOf(spec, endpoints, listening) ?? ALWAYS
    return { check, changed, until: new Until([signal, changed], clock) }
  }
  let { check, changed, until } = current()
  while (!signal.aborted) {
    if (changed.aborted) ({ check, changed, until } = current())
    const { intervalMs } = check
    const fault = await check.run(until.signal)
    if (signal.aborted) return
    if (changed.aborted) continue
    const before = verdict
    verdict = judge(before, fault)
    if (verdict.isReady !== before.isReady || (!verdict.isReady && verdict.failures === SLOW_START)) {
      onVerdict(verdict.isReady, fault)
    }
    waitMs = verdict.isReady ? FIRST_CHECK_MS : Math.min(waitMs * 1.5, LAST_CHECK_MS, intervalMs)
    if (verdict.isReady && intervalMs >= STEP_MS) await until.rest(check)
    else await until.sleep(verdict.isReady ? intervalMs : waitMs)
  }
}

/**
 * Whichever of the signals comes first. An agent at rest wakes for hundreds of checks each second: listeners are added once, not for
 * each check; `AbortSignal.any` and its garbage took as long as the checks themselves.
 */
class Until {
  readonly #ending = new AbortController()
  readonly #clock: Clock
  #wake: () => void = () => undefined
  #cancel: () => void = () => undefined

  constructor(signals: readonly AbortSignal[], clock: Clock) {
    this.#clock = clock
    for (const signal of signals) {
      if (signal.aborted) this.#ending.abort()
      else signal.addEventListener('abort', () => this.#end(), { once: true, signal: this.#ending.signal })
    }
  }

  get signal(): AbortSignal {
    return this.#ending.signal
  }

  /** One at a time. */
  sleep(ms: number): Promise<void> {
    if (this.signal.aborted) return Promise.resolve()
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#cancel()
        resolve()
      }
      this.#cancel = this.#clock.after(ms, resolve)
    })
  }

  /** From one run of the check to the next: as long as each time that it is due says that it need not run. */
  rest({ intervalMs, isSpared }: Pick<Check, 'intervalMs' | 'isSpared'>): Promise<void> {
    if (this.signal.aborted) return Promise.resolve()
    const steps = stepsOf(this.#clock)
    return new Promise((resolve) => {
      let step = 0
      const due = () => {
        if (isSpared?.() === true) step = steps.wakeAfter(intervalMs, due)
        else resolve()
      }
      this.#wake = () => {
        steps.cancel(step, due)
        resolve()
      }
      step = steps.wakeAfter(intervalMs, due)
    })
  }

  #end(): void {
    this.#ending.abort()
    this.#wake()
  }
}

/** There is nothing to check, unless another document says so. */
const ALWAYS: Check = { intervalMs: 2 ** 31 - 1, run: () => Promise.resolve(undefined) }

/** An image knows better than we when its program is well; the document has the last word. */
function ownCheckOf({ check, oneShot }: ServiceSpec, own: Watch['own']): Check | undefined {
  return own === undefined || check !== undefined || oneShot ? undefined : { intervalMs: OWN_CHECK_MS, run: own }
}

/** The engine is asked for what it has found out already. */
const OWN_CHECK_MS = 2_000

function checkKindOf(
  spec: ServiceSpec,
  endpoints: Endpoints,
  listening: Pick<Listening, 'keepsUp'>,
): Check | undefined {
  const check = checkOf(spec)
  if (check === undefined) return udpCheckOf(spec, endpoints)
  const probed = probedBy(check, spec, endpoints)
  if (probed === undefined) return undefined
  const connect = (signal: AbortSignal) => probe(check, probed, signal)
  const { intervalMs } = check
  if (check.kind !== 'tcp') return { intervalMs, run: connect }
  return sparing(connect, () => listening.keepsUp(probed.host, probed.port), intervalMs)
}

const ofThisMachine = new Listening()

/** Between two connections to a program that the kernel says keeps up. Smaller costs processor, larger notices later what the kernel does not say. */
const SPARED_MS = 30_000

/**
 * A connection only now and then, while the last one succeeded and the kernel says that a program listens and has accepted all that
 * came: a check of hundreds of instances is then one look at a list. Whatever else the kernel says is found out by a connection.
 */
function sparing(connect: Check['run'], keepsUp: () => boolean, intervalMs: number): Check {
  let spare = 0
  return {
    intervalMs,
    isSpared: () => {
      if (spare === 0 || !keepsUp()) return false
      spare -= 1
      return true
    },
    run: async (signal) => {
      const fault = await connect(signal)
      spare = fault === undefined ? Math.max(0, Math.floor(SPARED_MS / intervalMs) - 1) : 0
      return fault
    },
  }
}

/** Where the check connects to. */
export function probedBy(
  { port: checked }: Pick<CheckSpec, 'port'>,
  { ports }: Pick<ServiceSpec, 'ports'>,
  endpoints: Endpoints,
): Probed | undefined {
  const endpoint = endpoints[endpointKey({ port: checked, protocol: 'tcp' })]
  if (endpoint === undefined) return undefined
  const isIntroduced = ports.some(({ port, protocol, proxyProtocol }) => {
    return port === checked && protocol === 'tcp' && proxyProtocol !== undefined
  })
  return { ...endpoint, isIntroduced }
}

/**
 * For UDP alone: a question that every program answers does not exist, so it counts that something has the port, as
 * the kernel tells without disturbing anybody. What runs elsewhere (`external`) cannot be seen.
 */
function udpCheckOf({ runtime, oneShot, ports }: ServiceSpec, endpoints: Endpoints): Check | undefined {
  const [udp] = ports.filter(({ protocol }) => protocol === 'udp')
  const endpoint = udp && endpoints[endpointKey(udp)]
  if (runtime !== 'process' || oneShot || endpoint === undefined) return undefined
  const { port } = endpoint
  return {
    intervalMs: 2_000,
    run: async () => ((await isUdpBound(port)) ? undefined : `nothing listens on UDP port ${port}`),
  }
}

/** Whether a socket on this machine has the UDP port, on any address; true where it cannot be known. */
async function isUdpBound(port: number): Promise<boolean> {
  const local = new RegExp(`^ *\\d+: [0-9A-F]+:${port.toString(16).toUpperCase().padStart(4, '0')} `, 'm')
  const tables = await Promise.all(
    ['udp', 'udp6'].map((table) => readFile(`/proc/self/net/${table}`, 'latin1').catch(() => undefined)),
  )
  return tables[0] === undefined || tables.some((table) => table !== undefined && local.test(table))
}

/** `isIntroduced`: it reads a PROXY header first. */
export type Probed = Endpoint & { isIntroduced?: boolean }

/** Why the instance does not answer, or `undefined` when it does. A signal and a timer of its own for each would cost more than the connection. */
export function probe(check: CheckSpec, endpoint: Probed, signal: AbortSignal): Promise<string | undefined> {
  const { host, port } = endpoint
  const late = `no answer from ${host}:${port} in ${check.timeoutMs} ms`
  return new Promise((resolve) => {
    if (signal.aborted) return resolve(late)
    const stop = () => {
      answered(late)
      attempt.destroy()
    }
    const timer = setTimeout(stop, check.timeoutMs)
    const answered = (fault: string | undefined) => {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
      resolve(fault)
    }
    signal.addEventListener('abort', stop)
    const attempt = check.kind === 'tcp' ? connection(endpoint, answered) : question(check.path, endpoint, answered)
    attempt.on('error', ({ message }) => answered(message))
  })
}

type Answered = (fault: string | undefined) => void

function connection({ host, port, isIntroduced }: Probed, answered: Answered): Socket {
  const socket = connect({ host, port })
  return socket.once('connect', () => {
    answered(undefined)
    if (isIntroduced === true) socket.end(OWN_PROXY_HEADER, () => socket.destroy())
    else socket.destroy()
  })
}

function question(path: string, { host, port, isIntroduced }: Probed, answered: Answered): ClientRequest {
  const createConnection = (): Socket => {
    const socket = connect({ host, port })
    if (isIntroduced === true) socket.write(OWN_PROXY_HEADER)
    return socket
  }
  return get({ host, port, path, createConnection }, (response) => {
    const { statusCode = 0 } = response
    response.destroy()
    answered(statusCode >= 200 && statusCode < 400 ? undefined : `${path} answered ${statusCode}`)
  })
}
