import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { FastPathMachine } from '../bench/fast-path.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { lacking } from '../../src/lab/namespace.ts'
import { text } from '../../src/lab/program.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

/**
 * The kernel fast path as users have it: one machine in a namespace, a real agent in host mode, curl by name.
 */
const skip = (await lacking()) ?? (['curl', 'conntrack'].every(hasTool) ? false : 'needs curl and conntrack')

/** Says over HTTP and UDP which instance it is, and whom it sees. */
const ECHO = `
  const { createServer } = require('node:http')
  const { createSocket } = require('node:dgram')
  const { PORT, HOST, HEDGEROW_INSTANCE: instance, HEDGEROW_PORT_8053_UDP: udp } = process.env
  createServer((request, response) => response.end([instance, request.socket.remoteAddress, process.pid].join(' '))).listen(PORT, HOST)
  const socket = createSocket('udp4').on('message', (_, from) => socket.send(instance + ' ' + process.pid, from.port, from.address)).bind(udp, HOST)
`
/** One connection and one UDP socket, used every 20 ms; prints who answered. */
const CLIENT = `
  const { Agent, get } = require('node:http')
  const { createSocket } = require('node:dgram')
  const [vip] = process.argv.slice(1)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const socket = createSocket('udp4').on('message', (text) => console.log('udp ' + text)).on('error', () => undefined)
  socket.connect(8053, vip)
  let connections = 0
  const ask = () => get({ host: vip, port: 8080, agent }, (response) => {
    response.setEncoding('utf8').on('data', (text) => console.log('tcp ' + connections + ' ' + text)).on('end', () => setTimeout(ask, 20))
  }).on('socket', (used) => { if (!used.seen) { used.seen = true; connections++ } }).on('error', (error) => { console.log('tcp ' + error.code); setTimeout(ask, 20) })
  ask()
  setInterval(() => socket.send('x', () => undefined), 20)
`
const FAST_PATH = 'table inet hedgerow_10_30_0_0_16'
/** The fast path, and the ports of the VIP listeners. */
const OURS = [FAST_PATH, 'table inet hedgerow_vips_10_30_0_0_16']
const SERVICE = 'shop.acme.echo.prod'
const ANY = `${SERVICE}.any.rr.local`
const service = (replicas: number) => ({
  microservice_name: 'echo',
  microservice_namespace: 'prod',
  virtualization: 'process',
  cmd: [process.execPath, '-e', ECHO],
  code: '',
  port: '8080;8053/udp',
  replicas,
})

t.setTimeout(280_000)

/** What a test asks of the machine. */
function seen(machine: FastPathMachine) {
  const { host } = machine
  const tables = async () => (await host.text(['nft', 'list', 'tables'])).trim().split('\n')
  const curl = async (name: string) => (await host.exec(['curl', '-s', `http://${name}:8080/`])).stdout
  const several = async (name: string, count: number) => {
    const answers: string[] = []
    for (let i = 0; i < count; i += 1) answers.push(await curl(name))
    return answers
  }
  const kernelFlows = (...labels: string[]) => machine.metric('hedgerow_proxy_flows_total', 'path="kernel"', ...labels)
  const userFlows = () => machine.metric('hedgerow_proxy_flows_total', 'path="local"')
  return { tables, curl, several, kernelFlows, userFlows }
}
type Seen = ReturnType<typeof seen> & { machine: FastPathMachine }

const ordinal = (answer: string) => answer.split(' ')[0]?.split('.').at(-1)

t.test('flows between processes of one machine go through the kernel', { skip }, async (t) => {
  await using machine = await FastPathMachine.start()
  await machine.host.text(['nft', 'add', 'table', 'inet', 'somebodys'])
  await machine.apply([service(2)], 2)
  const all = { machine, ...seen(machine) }
  await t.test('the instances of a service take exact turns by name, and no flow is in user space', (t) =>
    exactTurns(t, all),
  )
  await t.test('what is decided for each flow stays in user space', (t) => staysInUserSpace(t, all))
  await t.test('open flows keep their instance; when it ends, others have the next ones', (t) => keepInstance(t, all))
  await t.test('an agent that is killed leaves the flows; the next one takes over the table, and no other', (t) =>
    outlivesAgent(t, all),
  )
  await t.test('the machine is in the end as it was in the beginning', (t) => endsAsItBegan(t, all))
})

async function exactTurns(t: Test, { machine, several, kernelFlows, userFlows }: Seen): Promise<void> {
  t.match(
    await machine.path(`${ANY}:8080`, 'kernel'),
    /^kernel: 2 local instances, round robin/,
    'trace says that the kernel carries the flows',
  )
  const answers = await several(ANY, 10)
  const order = answers.map(ordinal).join('')
  t.ok(order === '0101010101' || order === '1010101010', `two instances take turns: ${order}`)
  t.same(
    [...new Set(answers.map((answer) => answer.split(' ')[1]))],
    ['127.0.0.1'],
    'each instance sees 127.0.0.1: nobody poses as somebody',
  )
  t.equal(await kernelFlows('policy="rr"', 'protocol="tcp"'), 10, 'ten flows of the kernel are counted')
  t.equal(await userFlows(), 0, 'none of user space')
  const bytes = await machine.metric('hedgerow_proxy_flow_bytes_total', 'direction="received"')
  t.ok(bytes > 10 * 100 && bytes < 10 * 400, `the bytes of ten small answers are counted: ${bytes}`)
  t.same(
    (await several(`${SERVICE}.1.pinned.local`, 4)).map(ordinal),
    ['1', '1', '1', '1'],
    'a name of one instance reaches that one only',
  )
  t.equal(await kernelFlows('policy="pinned"'), 4, 'through the kernel too')
}

async function staysInUserSpace(t: Test, { machine, curl, userFlows }: Seen): Promise<void> {
  const stays = (name: string) => machine.path(`${name}:8080`, 'user space')
  t.match(
    await stays(`${SERVICE}.any.least.local`),
    /does not weigh open flows/,
    'the policy least stays, for it weighs open flows',
  )
  t.match(
    await stays(`${SERVICE}.any.pinned.local`),
    /cannot tell who calls/,
    'the policy pinned stays, for it asks who calls',
  )
  const before = await userFlows()
  t.match(ordinal(await curl(`${SERVICE}.any.least.local`)), /^[01]$/, 'a flow of it reaches an instance')
  t.equal(await userFlows(), before + 1, 'through user space')
  const vip = await machine.vip(ANY)
  const posing = await machine.host.text(['curl', '-s', '--interface', vip, `http://${vip}:8080/`])
  t.match(posing, / 127\.0\.0\.1 /, 'who binds the address of a service is not seen under it')
  t.equal(await userFlows(), before + 2, 'and its flow goes through user space')
}

async function keepInstance(t: Test, { machine, several }: Seen): Promise<void> {
  await using client = machine.host.spawn([process.execPath, '-e', CLIENT, await machine.vip(ANY)])
  const last = (kind: string) => client.lines.findLast((line) => line.startsWith(`${kind} `)) ?? ''
  const answers = (kind: string) => client.lines.filter((line) => line.startsWith(`${kind} `)).length
  await until(() => answers('tcp') > 5 && answers('udp') > 5)
  const { agent } = await machine.json<{ agent: { kernelFlows: number } }>('status')
  t.ok(agent.kernelFlows >= 2, `its two flows are open in the kernel: ${agent.kernelFlows}`)

  // the maps are swapped: a third instance
  await machine.apply([service(3)], 3)
  t.match(await machine.path(`${ANY}:8080`, 'kernel'), /3 local instances/, 'the kernel knows the third instance')
  const turns = (await several(ANY, 9)).map(ordinal).join('')
  t.match('012012012012', turns, `three instances take turns: ${turns}`)
  t.match(last('tcp'), /^tcp 1 /, 'the client still has its first connection')
  t.equal(
    new Set(client.lines.filter((line) => line.startsWith('udp ')).map((line) => line.slice(4))).size,
    1,
    'its datagrams still reach one instance',
  )

  // the instances it uses are killed
  const [tcp, udp] = [last('tcp').split(' '), last('udp').split(' ')]
  for (const pid of new Set([tcp.at(-1), udp.at(-1)])) process.kill(checked(pid), 'SIGKILL')
  await until(() => /^tcp [2-9]\d* shop/.test(last('tcp')) && last('udp') !== udp.join(' '))
  t.pass(`${tcp.join(' ')} and ${udp.join(' ')} ended; now ${last('tcp')}, ${last('udp')}`)
  const failed = (await several(ANY, 12)).filter((answer) => answer === '')
  t.same(failed, [], 'no new flow to one that is gone')
}

async function outlivesAgent(t: Test, { machine, tables, curl }: Seen): Promise<void> {
  await until(async () => (await machine.path(`${ANY}:8080`, 'kernel')).includes('3 local'))
  await using client = machine.host.spawn([process.execPath, '-e', CLIENT, await machine.vip(ANY)])
  await until(() => client.lines.length > 5)
  const owner = () => machine.host.text(['nft', 'list', 'table', 'inet', 'hedgerow_10_30_0_0_16']).then(ownerIn)
  const first = await owner()
  await machine.restart()
  await until(async () => (await owner()) !== first)
  t.same(
    (await tables()).toSorted(),
    [...OURS, 'table inet somebodys'],
    'the tables are ours once, and that of somebody',
  )
  await machine.path(`${ANY}:8080`, 'kernel')
  const seen = client.lines.length
  await until(() => client.lines.length > seen + 10)
  t.notOk(
    client.lines.some((line) => /^tcp E|^tcp 2/.test(line)),
    'the connection of the client outlived the agent',
  )
  await machine.host.text(['nft', 'flush', 'ruleset'])
  await machine.host.text(['nft', 'add', 'table', 'inet', 'somebodys'])
  await until(async () => (await curl(ANY)) !== '', 'a flow through user space', undefined, { limitMs: 1_500 })
  t.pass('somebody flushed all rules: flows go through user space at once')
  await until(async () => (await tables()).length === 1 + OURS.length)
  t.pass('and the rules are set up again')
}

async function endsAsItBegan(t: Test, { machine, tables }: Seen): Promise<void> {
  await machine.stop()
  t.same(await tables(), ['table inet somebodys'], 'our tables are gone, that of somebody is not')
  t.equal(
    (await machine.host.text(['ip', 'route', 'show', 'table', 'local', 'proto', '213'])).trim(),
    '',
    'our routes are gone',
  )
}

t.test('after a killed agent with the fast path, one without it removes its table', { skip }, async (t) => {
  await using machine = await FastPathMachine.start()
  const tables = () => machine.host.text(['nft', 'list', 'tables'])
  await until(async () => (await tables()).includes(FAST_PATH))
  await machine.restart([])
  t.notMatch(await tables(), FAST_PATH, 'the table of the first is removed')
})

t.test('without nft flows go through user space, and check and status say so', { skip }, async (t) => {
  await using machine = await FastPathMachine.start({ env: await pathWithout(t, 'nft') })
  await machine.apply([service(1)], 1)
  t.match(await machine.path(`${ANY}:8080`, 'user space'), /fast path is off: nft is not installed/, 'trace says why')
  t.match(
    (await machine.host.exec(['curl', '-s', `http://${ANY}:8080/`])).stdout,
    /echo\.prod\.0 /,
    'a flow reaches its instance all the same',
  )
  const checks = await machine.json<Array<{ check: string; ok: boolean; finding: string; remedy?: string }>>('check')
  t.match(
    checks.find(({ check }) => check === 'fast path'),
    { ok: false, finding: /nft is not installed/, remedy: /install nftables/ },
    'check says what is missing, and what to do',
  )
  t.match(await machine.json('status'), { agent: { fastPath: 'off: nft is not installed' } }, 'status says it too')
})

/** PATH with nothing but what host mode needs. */
async function pathWithout(t: Test, missing: string): Promise<{ PATH: string }> {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-path-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  for (const tool of ['ip', 'nft', 'conntrack', 'sh', 'mkfifo', 'cat', 'curl'].filter((tool) => tool !== missing)) {
    symlinkSync((await text(['which', tool])).trim(), join(dir, tool))
  }
  return { PATH: dir }
}

/** Never 0, which is our own group. */
function checked(pid: string | undefined): number {
  if (!/^[1-9]\d+$/.test(pid ?? '')) throw new Error(`no pid: ${pid}`)
  return Number(pid)
}

function ownerIn(ruleset: string): string | undefined {
  return /chain (o_\w+)/.exec(ruleset)?.[1]
}
