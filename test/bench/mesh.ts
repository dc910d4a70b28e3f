import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Lane, Started } from './lanes.ts'

const run = promisify(execFile)
/** As the launcher's first line says, which is not read when Node is named. */
const launcher = [
  '--max-semi-space-size=2',
  '--single-threaded-gc',
  new URL('../../src/hedgerow.js', import.meta.url).pathname,
]

/** `hedgerow up` and a second agent; the origin is an external service on the second, called from the first. */
export async function startMesh(
  started: Started,
  dir: string,
  origin: { origin: number; iperf: number },
): Promise<Omit<Lane, 'name'>> {
  const first = join(dir, 'first')
  const second = join(dir, 'second')
  const hedgerow = async (...argv: string[]) =>
    (await run(process.execPath, [...launcher, '--state', first, ...argv])).stdout
  started.start(process.execPath, [
    ...launcher,
    '--state',
    first,
    'up',
    '--name',
    'caller',
    '--listen',
    '127.0.0.1:7550',
  ])
  await until(async () => (JSON.parse(await hedgerow('get', 'nodes', '-o', 'json')) as unknown[]).length > 0)
  const { token } = JSON.parse(
    await hedgerow('token', 'create', '--role', 'node', '--cluster', 'edge', '-o', 'json'),
  ) as { token: string }
  writeFileSync(join(dir, 'token'), token, { mode: 0o600 })
  started.start(process.execPath, [
    ...launcher,
    '--state',
    second,
    'agent',
    '--name',
    'served',
    '--listen',
    '127.0.0.1:7559',
    '--token-file',
    join(dir, 'token'),
  ])
  const service = (name: string, port: number) => ({
    microservice_name: name,
    microservice_namespace: 'bench',
    virtualization: 'external',
    code: `127.0.0.1:${port}`,
    port: String(port),
    constraints: [{ type: 'direct', cluster: 'edge', node: 'served' }],
  })
  writeFileSync(
    join(dir, 'bench.json'),
    JSON.stringify({
      sla_version: 'v2.0',
      customerID: 'Admin',
      applications: [
        {
          applicationID: '',
          application_name: 'bench',
          application_namespace: 'bench',
          microservices: [service('web', origin.origin), service('iperf', origin.iperf)],
        },
      ],
    }),
  )
  await until(() => hedgerow('apply', '-f', join(dir, 'bench.json')))
  await until(
    async () =>
      (JSON.parse(await hedgerow('get', 'instances', '-o', 'json')) as Array<{ state: string }>).filter(
        ({ state }) => state === 'running',
      ).length === 2,
  )
  const address = async (name: string) =>
    (JSON.parse(await hedgerow('resolve', name, '-o', 'json')) as { ipv4: string }).ipv4
  return {
    web: `http://${await address('bench.bench.web.bench.any.rr.local')}:${origin.origin}/`,
    iperf: { host: await address('bench.bench.iperf.bench.any.rr.local'), port: origin.iperf },
  }
}

/** Tries until it neither throws nor says false; the last error after 30 s. */
async function until(attempt: () => Promise<unknown>): Promise<void> {
  const limit = Date.now() + 30_000
  for (;;) {
    const outcome = await attempt().catch((error: unknown) => error as Error)
    if (outcome !== false && !(outcome instanceof Error)) return
    if (Date.now() > limit) throw outcome instanceof Error ? outcome : new Error('the mesh did not come up within 30 s')
    await new Promise((resolve) => setTimeout(resolve, 300))
  }
}
