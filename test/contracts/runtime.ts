import { existsSync } from 'node:fs'
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
  /** What runs the script that follows. */
  shell: readonly string[]
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
    const usage = await running.usage?.()
    if (made.ownsIt) t.ok(usage !== undefined && usage.memoryBytes > 0, 'what it uses can be measured')
    await running.stop(2_000)
    t.type((await running.ended).detail, 'string')
    t.same(running.pids(), [], 'none of its processes are left')
    if (made.ownsIt) t.notOk(await isOpen(endpoint), 'nothing answers any more')
    await running.stop(2_000) // a second time is nothing new
  })

  test(`${name}: a command runs beside the program, with its streams and exit code`, async (t) => {
    await using made = await make()
    if (!made.ownsIt) return t.pass('it runs nothing')
    const running = await made.runtime.launch(launchOf(made, made.server, []))
    const command = await running.exec?.([
      ...made.shell,
      'read -r line; echo $line; echo $HEDGEROW_INSTANCE; echo aside >&2; exit 7',
    ])
    if (command === undefined) throw new Error('it cannot run commands')
    command.stdin.end('from outside\n')
    const [out, err, code] = await Promise.all([textOf(command.stdout), textOf(command.stderr), command.ended])
    t.same([out, err, code], [`from outside\n${made.server.instance}\n`, 'aside\n', 7])
    const missing = await running.exec?.([...made.shell, 'exec no-such-program'])
    t.ok([126, 127].includes((await missing?.ended) ?? 0), 'as a shell tells it')
    await running.stop(2_000)
  })

  test(`${name}: secrets and files are in memory, only the instance has them, and they go with it`, async (t) => {
    await using made = await make()
    if (!made.ownsIt) return t.pass('it runs nothing')
    const traces: Trace[] = []
    const secrets = async () => [{ name: 'db-password', value: Buffer.from('correct horse') }]
    const files = [
      { path: '/etc/cart/config', content: 'colour=green' },
      { path: '/etc/cart/keys/db', secret: 'db-password' },
    ]
    const server = { ...made.server, spec: { ...made.server.spec, secrets: ['db-password'], files } }
    const running = await made.runtime.launch({ ...launchOf(made, server, traces), secrets })
    const paths = [
      '$HEDGEROW_SECRETS/db-password',
      '$HEDGEROW_FILES/etc/cart/config',
      '$HEDGEROW_FILES/etc/cart/keys/db',
    ]
    const command = await running.exec?.([
      ...made.shell,
      `for one in ${paths.join(' ')}; do read -r all < $one; echo "$all"; done`,
    ])
    if (command === undefined) throw new Error('it cannot run commands')
    t.equal(await textOf(command.stdout), 'correct horse\ncolour=green\ncorrect horse\n')
    t.notMatch(JSON.stringify(traces), /correct|green/, 'no record has them')
    const left = ['secrets', 'files'].flatMap((key) => traces.at(-1)?.[key] ?? []).map(String)
    for (const path of left) t.ok(existsSync(path))
    await running.stop(2_000)
    for (const path of left) t.notOk(existsSync(path), 'nothing is left of them')
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
  const secrets = async () => []
  return {
    assignment,
    endpoints: {},
    environment: {},
    output,
    secrets,
    onTrace: (trace) => traces.push(trace),
    mayStart: () => Promise.resolve(),
    signal,
  }
}

async function textOf(output: AsyncIterable<Buffer>): Promise<string> {
  let text = ''
  for await (const chunk of output) text += String(chunk)
  return text
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
