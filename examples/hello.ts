/**
 * A mesh inside a program: root, cluster and agent; one service that already runs here; one call by its name.
 *
 *     npx node examples/hello.ts
 */
import { createServer, get } from 'node:http'
import { mkdtemp, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  askAgent,
  defaults,
  readCredential,
  resolveConfig,
  type ResolveReport,
  RootClient,
  silentLog,
  Up,
} from '../src/index.ts'

const state = await mkdtemp(join(tmpdir(), 'hello-'))
const greeter = createServer((_request, response) => response.end('hello from the mesh\n'))
await new Promise<void>((listening) => greeter.listen(0, '127.0.0.1', listening))
const { port } = greeter.address() as AddressInfo

try {
  const anyPort = { listen: '127.0.0.1:0', opsListen: '127.0.0.1:0' }
  const config = resolveConfig(defaults(hostname()), {
    log: 'silent',
    root: anyPort,
    cluster: anyPort,
    agent: { listen: '127.0.0.1:0' },
  })
  await using _mesh = await Up.start({ state, config, version: '0.0.0' }, silentLog)

  const root = new RootClient(readCredential(join(state, 'root', 'admin.json')))
  await root.call('POST', '/apps', {
    sla_version: 'v2.0',
    customerID: 'Admin',
    applications: [
      {
        application_name: 'hello',
        application_namespace: 'demo',
        microservices: [
          {
            microservice_name: 'greeter',
            microservice_namespace: 'demo',
            virtualization: 'external',
            code: `127.0.0.1:${port}`,
            port: `8080:${port}`,
          },
        ],
      },
    ],
  })
  while (!(await root.call<Array<{ state: string }>>('GET', '/instances')).every(({ state }) => state === 'running'))
    await sleep(50)

  const name = 'hello.demo.greeter.demo.any.closest.local'
  const { ipv4 } = (await askAgent(join(state, 'agent', 'agent.sock'), '/resolve', { name })) as ResolveReport
  console.log(`http://${name}:8080/ is ${ipv4}`)
  await new Promise<void>((ended, failed) => {
    get(
      { host: ipv4, port: 8080, headers: { connection: 'close' } },
      (response) => void response.pipe(process.stdout, { end: false }).once('unpipe', ended),
    ).on('error', failed)
  })
} finally {
  greeter.close()
  await rm(state, { recursive: true, force: true })
}
