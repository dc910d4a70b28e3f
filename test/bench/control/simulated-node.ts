import { connect, createSecureContext } from 'node:tls'
import { MeshError } from '../../../src/core/errors.ts'
import { HeldIdentity } from '../../../src/core/identity/held.ts'
import { createRequest } from '../../../src/core/identity/keys.ts'
import { fingerprintOf } from '../../../src/core/identity/authorities.ts'
import { parseToken } from '../../../src/core/identity/token.ts'
import { certificatesIn } from '../../../src/core/identity/x509.ts'
import { onAbort } from '../../../src/core/kit/abort.ts'
import { silentLog } from '../../../src/core/kit/log.ts'
import { openMetrics } from '../../../src/core/metrics.ts'
import type { InstanceState } from '../../../src/core/model/instance.ts'
import { NOTHING } from '../../../src/orchestrator/scheduling/capacity.ts'
import type { Assignment, InstanceReport } from '../../../src/orchestrator/spec.ts'
import { Uplink } from '../../../src/orchestrator/worker/uplink.ts'
import type { UplinkWorker } from '../../../src/orchestrator/worker/uplink-options.ts'

/** From accepted to ready, as of a small program. */
const START_MS = 20

/** Of the machine, not of the process. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

const metrics = openMetrics('agent')

/** All nodes of a process have one key: a machine of its own makes its own, which is not what is measured here. */
const request = createRequest({ role: 'cluster', mesh: 'simulated', cluster: 'joining' })

/**
 * As core/identity/enrol.ts does, with every question to the cluster on a connection of its own, and without what only costs the node: a
 * key, its files, and the checks of who answers (a machine of its own makes them; here a thousand would share the cluster's two cores).
 */
async function enrolled(name: string, token: string, signal: AbortSignal) {
  const { url, fingerprint } = parseToken(token)
  const { authorities } = await asked<{ authorities: string }>(url, 'GET /ca', signal)
  const ca = certificatesIn(authorities)
    .find((one) => fingerprintOf(one) === fingerprint)
    ?.toString()
  if (ca === undefined) throw new Error('the cluster belongs to another mesh')
  const { keyPem, csrPem } = await request
  const { chain } = await asked<{ chain: string }>(url, 'POST /enrol', signal, { token, csr: csrPem, name })
  return { identity: HeldIdentity.inMemory({ keyPem, chain, ca }), url }
}

const questions = createSecureContext({ minVersion: 'TLSv1.3' })

/** One connection, one question. @throws MeshError NOT_RUNNING when there is no answer */
async function asked<T>(url: string, what: string, signal: AbortSignal, body?: object): Promise<T> {
  const { hostname, port, host } = new URL(url)
  const content = body === undefined ? '' : JSON.stringify(body)
  const headers = [`host: ${host}`, 'connection: close', 'content-type: application/json']
  if (body !== undefined) headers.push(`content-length: ${Buffer.byteLength(content)}`)
  const socket = connect({ host: hostname, port: Number(port), secureContext: questions, rejectUnauthorized: false })
  using _late = onAbort(signal, () => socket.destroy(new Error('too late')))
  socket.setEncoding('utf8').write(`${what} HTTP/1.1\r\n${headers.join('\r\n')}\r\n\r\n${content}`)
  let text = ''
  try {
    for await (const part of socket) text += String(part)
  } catch (cause) {
    throw new MeshError('NOT_RUNNING', { address: url }, { cause })
  }
  if (!text.startsWith('HTTP/1.1 200')) throw new MeshError('NOT_RUNNING', { address: url, answer: text.slice(0, 200) })
  return JSON.parse(text.slice(text.indexOf('\r\n\r\n') + 4)) as T
}

/**
 * A node with an identity, a certificate and a control link of its own, as an agent has them; what it is to run it only says that it
 * runs.
 */
export class SimulatedNode implements AsyncDisposable {
  readonly #has = new Map<string, Assignment>()
  readonly #running = new Set<string>()
  readonly #ending = new AbortController()
  #uplink: Uplink | undefined

  static async join(options: { name: string; token: string; memoryMb: number }): Promise<SimulatedNode> {
    const { name, token, memoryMb } = options
    const { identity, url } = await enrolled(name, token, AbortSignal.timeout(120_000))
    const node = new SimulatedNode()
    const facts = {
      id: `?/${name}`, // the cluster knows it by its certificate
      capacity: { ...NOTHING, memoryMb, vcpus: 64, storageMb: 100_000 },
      runtimes: ['process'],
      arch: 'x64',
      addresses: ['192.0.2.1:7472'],
      labels: {},
      version: '0.0.0',
    }
    if (identity.principal.role === 'node') facts.id = `${identity.principal.cluster}/${name}`
    const worker = node.#worker()
    node.#uplink = Uplink.start(
      { urls: [url], identity, worker, facts: () => facts, isAtRest: () => true },
      silentLog,
      metrics,
    )
    return node
  }

  get running(): number {
    return this.#running.size
  }

  get assigned(): number {
    return this.#has.size
  }

  has(instance: string): boolean {
    return this.#has.has(instance)
  }

  async linked(): Promise<void> {
    while (this.#uplink?.isUp !== true) await new Promise((resolve) => setTimeout(resolve, 5))
  }

  say(instance: string, state: InstanceState): void {
    const assignment = this.#has.get(instance)
    if (assignment === undefined) return
    if (state === 'running') this.#running.add(instance)
    else this.#running.delete(instance)
    this.#uplink?.report(reportOf(assignment, state))
  }

  /** As the data plane does: asks, and is told of each change from then on. */
  async follow(key: string, onChange: () => void): Promise<void> {
    const uplink = this.#uplink as Uplink
    const { seq } = await uplink.ask(key, this.#ending.signal)
    const messages = uplink.messages(() => ({ epoch: '', seq, keys: [key] }), this.#ending.signal)
    const resumed = Promise.withResolvers<void>()
    const read = async () => {
      for await (const message of messages) {
        if (message.kind === 'changes') onChange()
        else resumed.resolve()
      }
    }
    void read().catch(() => undefined)
    await resumed.promise
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort()
    await this.#uplink?.[Symbol.asyncDispose]()
  }

  #worker(): UplinkWorker {
    return {
      assign: (assignment) => {
        this.#has.set(assignment.instance, assignment)
        setImmediate(() => this.say(assignment.instance, 'starting'))
        setTimeout(() => this.say(assignment.instance, 'running'), START_MS)
      },
      withdraw: (instance) => {
        const assignment = this.#has.get(instance)
        if (assignment === undefined) return false
        setTimeout(() => {
          this.#running.delete(instance)
          if (this.#has.delete(instance)) this.#uplink?.report(reportOf(assignment, 'stopped'))
        }, START_MS)
        return true
      },
      cancel: () => undefined, // an update of the benchmark has no successor
      keepOnly: (wanted) => {
        const kept = new Set<string>(wanted)
        for (const instance of this.#has.keys()) {
          if (kept.has(instance)) continue
          this.#has.delete(instance)
          this.#running.delete(instance)
        }
      },
      reports: () =>
        [...this.#has.values()].map((each) =>
          reportOf(each, this.#running.has(each.instance) ? 'running' : 'starting'),
        ),
      volumes: { list: async () => [], remove: async () => undefined },
      usage: async () => [],
      exec: () => Promise.reject(new Error('nothing runs here')),
      logs: async function* () {
        yield '' // nobody asks
      },
    }
  }
}

function reportOf({ instance, generation, revision }: Assignment, state: InstanceState): InstanceReport {
  return { instance, generation, state, restarts: 0, ...(revision === undefined ? {} : { revision }) }
}
