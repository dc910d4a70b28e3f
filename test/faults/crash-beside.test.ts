import { BoundSocket, createServer, connect, type AddressInfo, type Server } from 'node:net'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import t from 'tap'
import type { ResolveReport, StatusReport } from '../../src/client/reports.ts'
import { mayUseNft, systemNft } from '../../proxy/intercept/nft.ts'
import { parsePorts, vipTable } from '../../proxy/intercept/vip-rules.ts'
import { vipRange } from '../../src/core/model/address.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import { eventually, FIRST_PORT, Machines } from '../cli/program.ts'
import { sla } from '../walks/mesh.ts'
import { heard } from '../support/heard.ts'

/*
 * An agent is killed while the one that it replaced still lets its flows end. Programs hold VIPs and the address of the name server, so
 * the next agent has the same prefix; the flows of the old one go on.
 */

t.setTimeout(280_000)

t.test('killed beside a predecessor that drains: the next agent has the prefix, and the old flows go on', async (t) => {
  await using machines = await Machines.make()
  const base = await freeBase(FIRST_PORT + 4_500)
  writeFileSync(machines.path('config.yaml'), 'agent:\n  handoverSeconds: 120\n')
  const common = ['--upstream', '127.0.0.1:9', '--config', machines.path('config.yaml')]
  await machines.start('m0', 'up', '--name', 'n0', '--listen', `127.0.0.1:${base}`, ...common)
  writeFileSync(machines.path('token'), (await machines.json<{ token: string }>('m0', 'token', 'create')).token)
  const AGENT = ['agent', '--name', 'n1', '--listen', '127.0.0.1:0', '--token-file', machines.path('token'), ...common]
  // chosen by itself, as after any restart; agents of other tests come to this one last
  mkdirSync(machines.path('m1', 'agent'), { recursive: true, mode: 0o700 })
  writeFileSync(machines.path('m1', 'agent', 'prefix'), '127.80.0.0/12')
  const first = await machines.start('m1', ...AGENT)

  await using server = createServer((socket) => socket.on('error', () => undefined).pipe(socket)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const service = {
    microservice_name: 'echo',
    microservice_namespace: 'prod',
    virtualization: 'external',
    code: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    port: '8080',
    constraints: [{ type: 'direct', cluster: 'edge', node: 'n1' }],
  }
  writeFileSync(machines.path('echo.json'), JSON.stringify(sla([service])))
  await machines.json('m0', 'apply', '-f', machines.path('echo.json'))
  let vip = ''
  await eventually(async () => {
    const report = await machines
      .json<ResolveReport>('m1', 'resolve', 'shop.acme.echo.prod.any.rr.local')
      .catch(() => undefined)
    vip = report?.ipv4 ?? ''
    return vip !== '' && (await echoes(vip))
  }, 'flows are carried')
  const long = connect({ host: vip, port: 8_080 })
  await once(long, 'connect')
  const says = async (text: string) => {
    long.write(text)
    const said = await heard(long)
    return said.toString()
  }
  t.equal(await says('a'), 'a')

  const second = await machines.start('m1', ...AGENT, '--take-over')
  t.match(second.says, { prefix: '127.80.0.0/12' })
  t.equal(await says('b'), 'b')
  process.kill(second.program.pid, 'SIGKILL')
  await second.program.exited
  const asked = fetch(`${first.says['health']}/healthz`, { signal: AbortSignal.timeout(30_000) })
  await t.rejects(asked, { cause: { code: 'ECONNREFUSED' } }, 'the first agent listens nowhere any more')
  await using other = await beside('127.80.0.0/12') // the next agent must find its ports all the same
  const third = await machines.start('m1', ...AGENT)
  t.match(third.says, { prefix: '127.80.0.0/12' }, 'the same prefix')
  t.equal(third.says['resolver'], first.says['resolver'], 'the same name server')
  await eventually(() => echoes(vip), 'a program that holds the VIP is served')
  t.equal(await says('c'), 'c', 'the flow of the first agent goes on')
  const { agent } = await machines.json<{ agent: StatusReport }>('m1', 'status')
  t.match(agent.draining, [{ pid: first.program.pid }], 'which the new one knows')
  long.destroy()
  t.ok(other === undefined || other.listening)
})

/** Another agent's listener, at the port where those of the VIPs in `prefix` listen; none without rights. */
async function beside(prefix: string): Promise<Server | undefined> {
  if (!mayUseNft()) return undefined
  const { tcp } = parsePorts(
    await systemNft.list(vipTable({ range: vipRange(prefix), interfaces: [], hasFastPath: false }, 'x').name),
  )
  const port = tcp.get(8_080)
  if (port === undefined) throw new Error(`port 8080 of ${prefix} is not rewritten`)
  const server = createServer((socket) => socket.destroy())
  server.listen(new BoundSocket({ host: '127.250.0.1', port, reusePort: true }))
  await once(server, 'listening')
  return server
}

/** Whether a new flow is carried. @throws when it neither is nor fails: a client would wait for ever */
function echoes(host: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port: 8_080 }, () => socket.write('x'))
    const done = (is: boolean) => {
      socket.destroy()
      resolve(is)
    }
    socket
      .setTimeout(20_000, () => {
        reject(
          new Error(`a flow to ${host} is neither carried nor refused (${socket.connecting ? 'connecting' : 'open'})`),
        )
        socket.destroy()
      })
      .on('data', () => done(true))
      .on('error', () => done(false))
      .on('close', () => done(false))
  })
}
