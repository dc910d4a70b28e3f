import { connect } from 'node:net'
import { test } from 'tap'
import type { Assignment } from '../../src/orchestrator/spec.ts'
import { probe } from '../../src/orchestrator/worker/readiness.ts'
import {
  endpointKey,
  type Endpoint,
  type Launch,
  type Runtime,
  type Trace,
} from '../../src/orchestrator/worker/runtime.ts'

export interface RuntimeCase {
  runtime: Runtime
  /** A service with a TCP port that answers anything it is sent. */
  server: Assignment
  /** Something this runtime cannot start. */
  impossible: Assignment
  output: () => Promise<number>
  /** Whether ending an instance ends what answers (not for `external`). */
  ownsIt: boolean
}

/** What every runtime has to keep. */
export function runtimeContract(name: string, make: () => Promise<RuntimeCase & AsyncDisposable>): void {
  test(`${name}: a launched instance answers at its endpoint until it is stopped`, async (t) => {
    await using made = await make()
    const traces: Trace[] = []
    const running = await made.runtime.launch(launchOf(made, made.server, traces))
    const endpoint = running.endpoints[endpointKey({ port: 80, protocol: 'tcp' })] as Endpoint
    await answers(endpoint)
    t.pass('it answers')
    t.ok(traces.length > 0, 'a crash of the agent would find a trace')
    await running.stop(2_000)
    t.type((await running.ended).detail, 'string')
    t.same(running.pids(), [], 'none of its processes are left')
    if (made.ownsIt) t.notOk(await isOpen(endpoint), 'nothing answers any more')
    await running.stop(2_000) // a second time is nothing new
  })

  test(`${name}: what a trace names is adopted, with the endpoints it had`, async (t) => {
    await using made = await make()
    const traces: Trace[] = []
    const first = await made.runtime.launch(launchOf(made, made.server, traces))
    first.letGo()
    const trace = traces.at(-1) as Trace
    const plain = JSON.parse(JSON.stringify(trace)) as Trace
    const adopted = await made.runtime.adopt({ ...launchOf(made, made.server, []), endpoints: first.endpoints }, plain)
    if (adopted === undefined) throw new Error('it is still there, but was not adopted')
    t.same(adopted.endpoints, first.endpoints)
    await answers(adopted.endpoints['tcp/80'] as Endpoint)
    await adopted.stop(2_000)
    await adopted.ended
    if (made.ownsIt) {
      t.equal(await made.runtime.adopt(launchOf(made, made.server, []), plain), undefined, 'gone is gone')
    }
  })

  test(`${name}: what is to stop, or is the next agent's, before it was started is not started`, async (t) => {
    await using made = await make()
    if (!made.ownsIt) return t.pass('it starts nothing')
    const traces: Trace[] = []
    const leave = new AbortController()
    const output = () => {
      leave.abort()
      return made.output()
    }
    const launch = { ...launchOf(made, made.server, traces), output, signal: leave.signal }
    await t.rejects(made.runtime.launch(launch), { code: 'RUNTIME_FAILED' })
    t.equal(traces.at(-1)?.['pid'], undefined, 'nothing was started')
  })

  test(`${name}: what cannot be started is refused with the reason`, async (t) => {
    await using made = await make()
    await t.rejects(made.runtime.launch(launchOf(made, made.impossible, [])), {
      code: 'RUNTIME_FAILED',
      details: { reason: String },
    })
  })
}

function launchOf({ output }: RuntimeCase, assignment: Assignment, traces: Trace[]): Launch {
  const { signal } = new AbortController()
  return {
    assignment,
    endpoints: {},
    environment: {},
    output,
    onTrace: (trace) => traces.push(trace),
    mayStart: () => Promise.resolve(),
    signal,
  }
}

/** Looks until it answers; the test's own limit ends a wait that is in vain. */
async function answers({ host, port }: Endpoint): Promise<void> {
  const check = { kind: 'tcp', port, path: '/', intervalMs: 20, timeoutMs: 1_000 } as const
  while ((await probe(check, { host, port }, new AbortController().signal)) !== undefined) {
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

function isOpen({ host, port }: Endpoint): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port })
    socket.once('error', () => resolve(false))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })
}
