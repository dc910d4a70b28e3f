import { Resolver } from 'node:dns/promises'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { HELD_VIPS_FILE } from '../../src/agent/kept-vips.ts'
import type { CheckReport, ResolveReport, StatusReport } from '../../src/client/reports.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { eventually, Machines } from '../cli/program.ts'
import { sla } from './mesh.ts'

/*
 * A machine of its own, where nobody has a right in the kernel: `m0` runs root, cluster and node n0, `m1` node n1. Two services run
 * on n1, which therefore knows them: nobody asks for `db` before its port is wanted by a server of the machine, and a document
 * requests the address of `number`. Prints what was seen as JSON.
 */

const ANSWERS =
  "require('net').createServer(s=>s.on('error',()=>{}).end(process.env.HEDGEROW_INSTANCE)).listen(process.env.PORT,process.env.HOST)"
const [port, numbered] = [await freePort(), await freePort()]
const nameOf = (policy: string) => `shop.acme.db.prod.any.${policy}.local`
const service = (name: string, served: number, addresses: object = {}) => ({
  microservice_name: name,
  microservice_namespace: 'prod',
  virtualization: 'process',
  cmd: [process.execPath, '-e', ANSWERS],
  port: String(served),
  code: '',
  constraints: [{ type: 'direct', cluster: 'edge', node: 'n1' }],
  addresses,
})

const capabilities = /CapEff:\s*(\w+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]
const found: Record<string, unknown> = { capabilities }
await using machines = await Machines.make()
const COMMON = ['--memory-mb', '2000', '--vcpus', '8', '--upstream', '127.0.0.1:9']
await machines.start('m0', 'up', '--name', 'n0', '--listen', '127.0.0.1:7470', '--prefix', '127.208.0.0/12', ...COMMON)
const { token } = await machines.json<{ token: string }>('m0', 'token', 'create')
writeFileSync(machines.path('token'), token)
const AGENT = ['agent', '--name', 'n1', '--listen', '127.0.0.1:0', '--token-file', machines.path('token')]
AGENT.push('--prefix', '127.16.0.0/12', ...COMMON)
let agent = (await machines.start('m1', ...AGENT)).program
const status = () => machines.json<{ agent: StatusReport }>('m1', 'status').then(({ agent }) => agent)
const listeners = async () => (await status()).listeners
const dns = new Resolver({ timeout: 2_000, tries: 1 })
dns.setServers([(await status()).resolver])
const ask = async (policy: string) => (await dns.resolve4(nameOf(policy)))[0] ?? ''

/** Whether a server of the machine can listen on the port of `db` at every address. */
async function machineCanHavePort(): Promise<boolean> {
  const server = createServer().listen(port, '0.0.0.0')
  const isListening = await once(server, 'listening').then(
    () => true,
    () => false,
  )
  if (isListening) await new Promise((resolve) => server.close(resolve))
  return isListening
}

/** What one connection is told: the instance behind it, or why there is none. */
function call(host: string, at = port): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host, port: at, timeout: 10_000 })
    let text = ''
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
    socket.on('timeout', () => socket.destroy(new Error('no answer')))
    socket.on('error', ({ code, message }: NodeJS.ErrnoException) => resolve(code ?? message))
    socket.on('end', () => resolve(text))
  })
}

async function checks(): Promise<CheckReport['checks']> {
  const { stdout } = await machines.run('m1', 'check', '-o', 'json')
  return JSON.parse(stdout) as CheckReport['checks']
}

async function interception(): Promise<string> {
  return (await checks()).find(({ check }) => check === 'interception')?.finding ?? ''
}

writeFileSync(
  machines.path('shop.json'),
  JSON.stringify(sla([service('db', port), service('number', numbered, { rr_ip: '10.30.7.7' })])),
)
await machines.json('m0', 'apply', '-f', machines.path('shop.json'))
await eventually(async () => (await listeners()) === 1, 'the requested address is bound')
const running = async () =>
  (await machines.json<{ state: string }[]>('m0', 'get', 'instances')).every(({ state }) => state === 'running')
await eventually(running, 'both run')

found['before'] = await machineCanHavePort()
found['checkBefore'] = (await interception()).replaceAll(String(numbered), 'NUMBERED')
found['byNumber'] = await call('127.30.7.7', numbered)
const vip = await ask('rr')
found['firstCall'] = await call(vip)
found['listeners'] = await listeners()
found['after'] = await machineCanHavePort()
found['check'] = (await interception()).includes(`${port}/tcp`)

// killed: nothing is written at its end, so what was asked for a moment ago must be on the disk
const isWritten = async () =>
  (JSON.parse(readFileSync(machines.path('m1', 'agent', HELD_VIPS_FILE), 'utf8')) as { held: unknown[] }).held.length >=
  2
await eventually(isWritten, 'both addresses are written down')
agent.signal('SIGKILL')
await agent.exited
found['killed'] = await call(vip)
agent = (await machines.start('m1', ...AGENT)).program
found['held'] = await call(vip)
found['heldListeners'] = await listeners()

// replaced, while names are asked for that nobody asked for before
const replaced = new AbortController()
const answered = new Map<string, string>()
const asking = (async () => {
  while (!replaced.signal.aborted) {
    for (const policy of ['closest', 'least', 'pinned']) {
      if (answered.has(policy)) continue
      await new Promise((resolve) => setTimeout(resolve, 100))
      const address = await ask(policy).catch(() => undefined)
      if (address !== undefined) answered.set(policy, `${address} ${await call(address)}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
})()
const successor = await machines.json<StatusReport>('m1', 'restart')
replaced.abort()
await asking
found['successor'] = successor.pid !== agent.pid
found['handedOver'] = await call(vip)
found['meanwhile'] = [...answered.values()].map((text) => text.split(' ')[1])
found['meanwhileAfter'] = await Promise.all([...answered.values()].map((text) => call(text.split(' ')[0] ?? '')))

// a server of the machine that is there first, and a list that is damaged
const stop = async () => {
  process.kill(successor.pid, 'SIGINT')
  await eventually(
    async () => (await call(vip)) === 'ECONNREFUSED' && (await machines.run('m1', 'status')).code !== 0,
    'it has ended',
  )
}
await stop()
const server = createServer((socket) => void socket.on('error', () => undefined).end('machine')).listen(port, '0.0.0.0')
await once(server, 'listening')
writeFileSync(machines.path('m1', 'agent', HELD_VIPS_FILE), '{"format":1,"held":[{"serv')
agent = (await machines.start('m1', ...AGENT)).program
const conflict = async () => (await checks()).find(({ check }) => check === `listener ${vip}:${port}`)?.finding
await eventually(async () => (await conflict()) !== undefined, 'its instance runs again, and check names the conflict')
found['conflictResolved'] = (await machines.json<ResolveReport>('m1', 'resolve', nameOf('rr'))).obstacles
found['conflictChecked'] = await conflict()
await new Promise((resolve) => server.close(resolve))
await eventually(async () => (await call(vip)).startsWith('shop'), 'what is held gets its port when that is free')
found['damaged'] = await call(vip)
console.log(JSON.stringify(found))
