import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { hasTool } from '../../src/lab/system-tools.ts'
import { isMeshError } from '../../src/core/errors.ts'
import { vipRange } from '../../src/core/model/address.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { MachineSettings } from '../../proxy/intercept/machine-settings.ts'
import { KeptFile } from '../../src/core/kit/kept-file.ts'
import { HostInterceptor } from '../../proxy/intercept/host.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { keptLog, LiteralTable } from './world.ts'

const SHOW = 'ip route show table local proto 213 10.30.0.0/16'

const parts = () => ({
  table: new LiteralTable(),
  onFlow: () => undefined,
  clock: systemClock,
  log: keptLog(),
  metrics: openMetrics('agent'),
})

t.test('host mode undoes everything that it changes', async (t) => {
  const ran: string[] = []
  const run = async (program: string, argv: readonly string[]) => {
    ran.push([program, ...argv].join(' '))
    return ''
  }
  const host = await HostInterceptor.start({ range: vipRange('10.30.0.0/16') }, () => NODE_CALLER, parts(), run)
  const [del, add] = ['del', 'add'].map((verb) => `ip route ${verb} local 10.30.0.0/16 dev lo proto 213`)
  t.same(ran.splice(0), [SHOW, add], 'there is none, and the route is added')
  await host.close()
  t.same(ran, [del], 'closing removes the route')
})

t.test('a route that a killed agent has left is never gone', async (t) => {
  const ran: string[] = []
  const run = async (program: string, argv: readonly string[]) => {
    ran.push([program, ...argv].join(' '))
    return 'local 10.30.0.0/16 dev lo scope host\n'
  }
  const host = await HostInterceptor.start({ range: vipRange('10.30.0.0/16') }, () => NODE_CALLER, parts(), run)
  t.same(ran.splice(0), [SHOW])
  await host.close()
  t.same(ran, ['ip route del local 10.30.0.0/16 dev lo proto 213'])
})

t.test('what a killed agent has changed is restored by the next one', async (t) => {
  const dir = t.testdir()
  const open = (boot: string) =>
    new MachineSettings(undefined, { file: new KeptFile(join(dir, 'kept'), keptLog()), boot })
  const path = '/proc/sys/net/ipv4/tcp_migrate_req'
  const left = JSON.stringify({
    boot: 'a',
    before: { [path]: '0\n', '/etc/passwd': '0', '/proc/sys/net/../kernel/core_pattern': '0' },
  })
  writeFileSync(join(dir, 'kept'), left)
  t.same(open('a').before, { [path]: '0\n' }, 'and nothing else that the file may say')
  t.same(open('b').before, {}, 'the machine was started again: the kernel has its own settings')
  for (const odd of ['', 'null', '[]', '{"boot":"a"}', '{"boot":"a","before":null}', '{"boot":"a","before":{"x":1}}']) {
    writeFileSync(join(dir, 'kept'), odd)
    t.same(open('a').before, {}, odd)
  }
})

t.test('without the privilege host mode reports what is missing and leaves nothing behind', async (t) => {
  const ran: string[] = []
  const run = async (program: string, argv: readonly string[]) => {
    ran.push([program, ...argv].join(' '))
    if (argv.includes('add') && argv.includes('-6')) throw new Error('RTNETLINK answers: Operation not permitted')
    return ''
  }
  const range = vipRange('10.30.0.0/16', 'fd12:3456:789a::/48')
  const error = await HostInterceptor.start({ range }, () => NODE_CALLER, parts(), run).catch((error: unknown) => error)
  t.ok(isMeshError(error, 'INTERCEPT_FAILED'), 'it fails as INTERCEPT_FAILED')
  t.match(error, { details: { mode: 'host', remedy: /CAP_NET_ADMIN/ } }, 'the error names the missing privilege')
  t.equal(ran.at(-1), 'ip route del local 10.30.0.0/16 dev lo proto 213', 'the route that was added is removed')
})

/** Starts host mode, calls both VIPs by TCP and UDP, closes it, and prints what it saw and what the system looked like. */
const BOTH_FAMILIES = `
  import { spawnSync } from 'node:child_process'
  import { readFileSync } from 'node:fs'
  import { createSocket } from 'node:dgram'
  import { once } from 'node:events'
  import { HostInterceptor } from './proxy/intercept/host.ts'
  import { vipRange, vipToIPv4, vipToIPv6 } from './src/core/model/address.ts'
  import { openMetrics } from './src/core/metrics.ts'
  import { systemClock } from './src/core/kit/clock.ts'
  import { Client, keptLog, LiteralTable } from './test/proxy/world.ts'
  import { until } from './test/support/until.ts'
  const ip = (...argv) => spawnSync('ip', argv, { encoding: 'utf8' }).stdout.trim()
  const state = () => [ip('route', 'show', 'table', 'local', 'proto', '213'), ip('-6', 'route', 'show', 'table', 'local', 'proto', '213'), readFileSync('/proc/sys/net/ipv6/ip_nonlocal_bind', 'utf8').trim()]
  ip('link', 'set', 'lo', 'up')
  ip('route', 'add', 'local', '10.30.0.0/16', 'dev', 'lo', 'proto', '213') // left by an agent that was killed
  const range = vipRange('10.30.0.0/16', 'fd12:3456:789a::/48')
  const table = new LiteralTable({ id: 'shop.acme.cart.prod', on: ['edge/a'], ports: [80], udp: [53], vips: { 'any.rr': 0xe0203 }, requested: ['any.rr'] })
  const modes = []
  const onFlow = (flow) => { modes.push(flow.mode); flow.socket.end('hello') }
  const onDatagramClient = ({ answer, mode }) => ({ datagram: (payload) => answer(Buffer.from(mode + ' ' + payload)), end() {} })
  const parts = { table, onFlow, onDatagramClient, clock: systemClock, log: keptLog(), metrics: openMetrics('agent') }
  const host = await HostInterceptor.start({ range }, () => ({ kind: 'node' }), parts)
  await until(() => host.size === 4)
  const during = state()
  const answers = []
  for (const address of [vipToIPv4(range, 0xe0203), vipToIPv6(range, 0xe0203)]) {
    const client = await Client.connect(80, address)
    await client.ended
    answers.push(address + ' ' + client.text)
    client.socket.destroy()
  }
  const datagrams = []
  for (const [type, address] of [['udp4', vipToIPv4(range, 0xe0203)], ['udp6', vipToIPv6(range, 0xe0203)]]) {
    const client = createSocket(type)
    client.connect(53, address)
    await once(client, 'connect')
    client.send('hello')
    const [payload, from] = await once(client, 'message')
    datagrams.push(from.address + ' ' + from.port + ' ' + payload)
    client.close()
  }
  await host.close()
  console.log(JSON.stringify({ during, answers, datagrams, modes, after: state() }))
  process.exit(0)
`

const skip = !hasTool('ip') && 'ip is not installed'

t.test(
  'in its own network namespace VIPs of both families answer, and closing restores the state',
  { skip },
  async (t) => {
    const argv = ['-Urn', process.execPath, '--input-type=module', '-e', BOTH_FAMILIES]
    if (spawnSync('unshare', ['-Urn', 'true']).status !== 0) {
      t.comment('no user namespaces here: the lab tests host mode')
      return
    }
    const ran = spawnSync('unshare', argv, { encoding: 'utf8', timeout: 30_000 })
    const told = JSON.parse(ran.stdout || '{}') as Record<string, string[]>
    t.match(
      told,
      {
        during: [/^local 10\.30\.0\.0\/16 dev lo scope host$/, /^local fd12:3456:789a::\/48 dev lo/, '1'],
        answers: ['10.30.2.3 hello', 'fd12:3456:789a::e:203 hello'],
        datagrams: ['10.30.2.3 53 host hello', 'fd12:3456:789a::e:203 53 host hello'],
        modes: ['host', 'host'],
        after: ['', '', '0'],
      },
      `routes and setting are there while it runs and gone after it, and both VIPs answer; it wrote: ${ran.stderr}`,
    )
  },
)

t.test('without IPv6, or with a read-only /proc/sys, host mode uses IPv4 only', async (t) => {
  const script = `
    import { spawnSync } from 'node:child_process'
    import { whyNoIPv6 } from './proxy/intercept/host-ipv6.ts'
    const sh = (line) => spawnSync('sh', ['-c', line])
    const found = [whyNoIPv6() ?? 'usable']
    sh('mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys')
    found.push(whyNoIPv6() ?? 'usable')
    sh('umount /proc/sys')
    sh('echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6')
    found.push(whyNoIPv6() ?? 'usable')
    console.log(JSON.stringify(found))
  `
  if (spawnSync('unshare', ['-Urnm', 'true']).status !== 0) return t.comment('no user namespaces here')
  const argv = ['-Urnm', process.execPath, '--input-type=module', '-e', script]
  const ran = spawnSync('unshare', argv, { encoding: 'utf8', timeout: 30_000 })
  t.match(
    JSON.parse(ran.stdout || '[]'),
    ['usable', /ip_nonlocal_bind.*read-only/, /disable_ipv6/],
    `it says why IPv6 is not used; it wrote: ${ran.stderr}`,
  )
})
