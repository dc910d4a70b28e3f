import { execFile, spawn, spawnSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { HostInterceptor } from '../../proxy/intercept/host.ts'
import { HttpInterceptor } from '../../proxy/intercept/http.ts'
import type { ProxyParts } from '../../proxy/intercept/proxy-listener.ts'
import { systemNft } from '../../proxy/intercept/nft.ts'
import { SocksInterceptor } from '../../proxy/intercept/socks.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { Resolver } from '../../resolver/server.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { LocalSources } from '../../src/core/kit/local-sources.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { cidrsOf, vipRange } from '../../src/core/model/address.ts'
import { keptLog, LiteralTable } from './world.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

/*
 * A machine in host mode and its neighbour on a link, each in a network namespace:
 *
 *   victim  192.0.2.1, 2001:db8::1 ──── 192.0.2.2, 2001:db8::2  neighbour, which routes the VIPs and 127/8 to the victim
 *
 * Run by `unshare -Urn`, as `victim.ts OPTIONS`; prints what each of them got from every listener, as JSON.
 */

interface Options {
  /** Listed as an interface whose neighbours may call. */
  interfaces: string[]
  /** The kernel drops what comes from elsewhere; without, source addresses alone decide. */
  hasNft: boolean
}

const { interfaces, hasNft } = JSON.parse(process.argv[2] ?? '{}') as Options
const LINK = 'v0'

const range = vipRange('10.30.0.0/16', 'fd12:3456:789a::/48')
const VIPS = ['10.30.2.3', 'fd12:3456:789a::e:203']
const RESOLVER = '10.30.0.53'

function ip(line: string): void {
  const { status, stderr } = spawnSync('ip', line.split(' '), { encoding: 'utf8' })
  if (status !== 0) throw new Error(`ip ${line}: ${stderr}`)
}

const neighbour = spawn('unshare', ['-n', 'sleep', '60'])
process.on('exit', () => neighbour.kill())
const inside = (program: string, argv: readonly string[]) =>
  spawnSync('nsenter', ['-t', `${neighbour.pid}`, '-n', program, ...argv], { encoding: 'utf8' })

async function connectMachines(): Promise<void> {
  await until(() => inside('ip', ['link', 'show', 'lo']).status === 0)
  await sleep(50) // `unshare` has its own namespace before `sleep` runs in it
  ip('link set lo up')
  ip(`link add ${LINK} type veth peer name v1 netns ${neighbour.pid}`)
  ip(`addr add 192.0.2.1/24 dev ${LINK}`)
  ip(`addr add 2001:db8::1/64 dev ${LINK} nodad`)
  ip(`link set ${LINK} up`)
  spawnSync('sh', ['-c', `echo 1 > /proc/sys/net/ipv4/conf/${LINK}/route_localnet`]) // as kube-proxy sets it
  for (const line of [
    'link set lo up',
    'link set v1 up',
    'addr add 192.0.2.2/24 dev v1',
    'addr add 2001:db8::2/64 dev v1 nodad',
    'route add 10.30.0.0/16 via 192.0.2.1',
    '-6 route add fd12:3456:789a::/48 via 2001:db8::1',
    'route del local 127.0.0.0/8 dev lo table local',
    'route del local 127.0.0.1 dev lo table local',
    'route add 127.0.0.0/8 via 192.0.2.1 src 192.0.2.2',
  ]) {
    const { status, stderr } = inside('ip', line.split(' '))
    if (status !== 0) throw new Error(`neighbour: ip ${line}: ${stderr}`)
  }
  inside('sh', ['-c', 'echo 1 > /proc/sys/net/ipv4/conf/v1/route_localnet'])
}

/** Tries every listener, prints `{ listener: what came back }`; runs on either machine. */
const TRY = `
  const { connect } = require('node:net'), { createSocket } = require('node:dgram')
  const [targets, limit] = process.argv.slice(1).map((text) => JSON.parse(text))
  const tcp = ({ host, port, say }) => new Promise((resolve) => {
    const socket = connect({ host, port }), end = (word) => (resolve(word), socket.destroy())
    socket.once('data', (bytes) => end('answered')).once('error', ({ code }) => end(code)).once('end', () => end('ended'))
    if (say) socket.write(Buffer.from(say, 'base64'))
    setTimeout(end, limit, 'nothing')
  })
  const udp = ({ host, port, say }) => new Promise((resolve) => {
    const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4'), end = (word) => { resolve(word); try { socket.close() } catch {} }
    socket.once('message', () => end('answered')).once('error', ({ code }) => end(code))
    socket.connect(port, host, () => socket.send(Buffer.from(say, 'base64'), () => {}))
    setTimeout(end, limit, 'nothing')
  })
  Promise.all(Object.entries(targets).map(async ([name, target]) => [name, await (target.udp ? udp : tcp)(target)]))
    .then((found) => { console.log(JSON.stringify(Object.fromEntries(found))); process.exit(0) })
`

async function openListeners(): Promise<{ socks: number; http: number }> {
  const log = keptLog()
  const table = new LiteralTable({
    id: 'shop.acme.cart.prod',
    on: ['edge/a'],
    ports: [80],
    udp: [53],
    vips: { 'any.rr': 0xe0203 },
    requested: ['any.rr'],
  })
  const parts: ProxyParts = {
    table,
    onFlow: ({ socket }) => void socket.end('hello'),
    onDatagramClient: (client) => ({ datagram: (payload) => void client.answer(payload), end: () => undefined }),
    clock: systemClock,
    log,
    metrics: openMetrics('agent'),
    sources: new LocalSources(log, { ranges: cidrsOf(range), interfaces }),
    interests: { want: async () => undefined, wantVip: async () => undefined },
    zones: ['local'],
    ranges: [range],
    credentials: () => undefined,
  }
  const socks = await SocksInterceptor.start({ port: 0 }, parts)
  const http = await HttpInterceptor.start({ port: 0 }, parts)
  const host = await HostInterceptor.start(
    { range, interfaces, ...(hasNft ? { nft: systemNft } : {}) },
    () => NODE_CALLER,
    parts,
  )
  await host.settled()
  await Resolver.start(
    {
      ...parts,
      range,
      listen: { host: RESOLVER, port: 53 },
      upstreams: [],
      ttlSeconds: 5,
      negativeTtlSeconds: 2,
      explainChoice: () => [],
    },
    log,
    parts.metrics,
  )
  return { socks: socks.port, http: http.port }
}

await connectMachines()
const { socks, http } = await openListeners()
const question = Buffer.from(
  '12340100000100000000000004' +
    '73686f70' +
    '0461636d65' +
    '0463617274' +
    '0470726f64' +
    '03616e79' +
    '027272' +
    '056c6f63616c' +
    '0000010001',
  'hex',
)
const framed = Buffer.concat([Buffer.of(0, question.length), question])
const say = (bytes: Buffer | string) => Buffer.from(bytes).toString('base64')
const [vip4 = '', vip6 = ''] = VIPS
const targets = {
  'VIP, TCP, IPv4': { host: vip4, port: 80 },
  'VIP, TCP, IPv6': { host: vip6, port: 80 },
  'VIP, UDP, IPv4': { host: vip4, port: 53, udp: true, say: say('x') },
  'VIP, UDP, IPv6': { host: vip6, port: 53, udp: true, say: say('x') },
  'resolver, UDP': { host: RESOLVER, port: 53, udp: true, say: say(question) },
  'resolver, TCP': { host: RESOLVER, port: 53, say: say(framed) },
  'SOCKS proxy': { host: '127.0.0.1', port: socks, say: say(Buffer.of(5, 1, 2)) },
  'HTTP proxy': { host: '127.0.0.1', port: http, say: say('GET http://x/ HTTP/1.1\r\n\r\n') },
}
/** Where an answer is expected; a busy machine takes seconds. */
const PATIENTLY_MS = 20_000
/** Where none is. */
const BRIEFLY_MS = 700
const [program, ...argv] = [process.execPath, '-e', TRY]
const results = (command: string, args: readonly string[], asked: object, limitMs: number) =>
  new Promise<unknown>((resolve) =>
    execFile(command, [...args, JSON.stringify(asked), `${limitMs}`], (_, stdout) => resolve(JSON.parse(stdout))),
  )
const fromThere = ['-t', `${neighbour.pid}`, '-n', program, ...argv]
const isAllowed = interfaces.length > 0
const vips = Object.fromEntries(Object.entries(targets).filter(([name]) => !name.endsWith('proxy')))
const local = await results(program, argv, targets, PATIENTLY_MS)
const remote = isAllowed
  ? await results('nsenter', fromThere, vips, PATIENTLY_MS)
  : await results('nsenter', fromThere, targets, BRIEFLY_MS)
console.log(JSON.stringify({ local, remote }))
process.exit(0)
