import { spawnSync } from 'node:child_process'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { HostInterceptor } from '../../proxy/intercept/host.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { vipRange, vipToIPv4, vipToIPv6 } from '../../src/core/model/address.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { keptLog, LiteralTable } from '../proxy/world.ts'
import { until } from '../support/until.ts'

/* Run by sockets.test.ts in a network namespace of its own: host mode while `lo` goes down and up, and while its routes are flushed. */

const VIP = 0xe0203
const ip = (...argv: string[]) => spawnSync('ip', argv, { encoding: 'utf8' })
ip('link', 'set', 'lo', 'up')
const range = vipRange('10.30.0.0/16', 'fd12:3456:789a::/48')
const facts = { id: 'shop.acme.cart.prod', on: ['edge/a'], ports: [80], vips: { 'any.rr': VIP } }
const table = new LiteralTable({ ...facts, requested: ['any.rr'] })
const log = keptLog()
const metrics = openMetrics('agent')
const onFlow = ({ socket }: { socket: { end(text: string): void } }) => socket.end('hello')
const host = await HostInterceptor.start({ range }, () => NODE_CALLER, {
  table,
  onFlow,
  clock: systemClock,
  log,
  metrics,
})
await until(() => host.size === 2)

async function textAt(host: string): Promise<string> {
  const socket = connect({ host, port: 80, timeout: 1_000 })
  socket.on('timeout', () => socket.destroy(new Error('no answer')))
  return text(socket)
}

async function answers(): Promise<string[]> {
  const found: string[] = []
  for (const address of [vipToIPv4(range, VIP), vipToIPv6(range, VIP) ?? '']) {
    found.push(await textAt(address).catch(() => 'nobody'))
  }
  return found
}

/** Longer than the agent takes to look twice. */
async function back(): Promise<string[]> {
  for (let tries = 0; tries < 60 && (await answers()).includes('nobody'); tries += 1)
    await new Promise((resolve) => setTimeout(resolve, 200))
  return answers()
}

const before = await answers()
await new Promise((resolve) => setTimeout(resolve, 6_000)) // it looks once, and finds nothing to do
const quiet = log.lines.filter(({ level }) => level !== 'info').map(({ sentence, fields }) => [sentence, fields])
ip('link', 'set', 'lo', 'down')
const down = await answers()
ip('link', 'set', 'lo', 'up')
const up = await back()
ip('route', 'flush', 'table', 'local', 'proto', '213')
const flushed = await answers()
const set = await back()
await host.close()
const left = ip('route', 'show', 'table', 'local', 'proto', '213').stdout
console.log(JSON.stringify({ before, quiet, down, up, flushed, set, left }))
process.exit(0)
