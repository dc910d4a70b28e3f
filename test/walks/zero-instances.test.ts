import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect } from 'node:net'
import t from 'tap'
import { program, wholeMesh } from './mesh.ts'
import { until } from '../support/until.ts'

/** A service that is scaled to nothing and back: callers are refused at once, and served again as soon as it runs. */

const NAME = 'shop.acme.echo.prod'
const TIMES = 5
const [TCP, UDP] = [8080, 5353]
const speaker = `
  require('net').createServer((s) => s.on('error', () => {}).end('hello')).listen(process.env.HEDGEROW_PORT_8080, process.env.HOST)
  const u = require('dgram').createSocket('udp4')
  u.on('message', (m, f) => u.send('hello', f.port, f.address)).bind(process.env.HEDGEROW_PORT_5353_UDP, process.env.HOST)`

/** `hello`, or the code of the error; `silence` after a while. */
function byTcp(host: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host, port: TCP })
    socket
      .on('data', (text) => resolve(text.toString()))
      .on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''))
  })
}

async function byUdp(host: string, silentMs: number): Promise<string> {
  const socket = createSocket('udp4')
  socket.connect(UDP, host)
  await once(socket, 'connect')
  const answer = new Promise<string>((resolve) => {
    socket
      .on('message', (text) => resolve(text.toString()))
      .on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''))
    socket.send('who?')
    setTimeout(resolve, silentMs, 'silence')
  })
  const text = await answer
  socket.close()
  return text
}

async function since(startedAt: number, call: () => Promise<string>): Promise<number> {
  await until(async () => (await call()) === 'hello', 'it answers', call, { lookMs: 5 })
  return Math.round(performance.now() - startedAt)
}

t.setTimeout(280_000)

t.test('scaled to nothing: refused; running again: served', async (t) => {
  await using mesh = await wholeMesh(['here', 'there'])
  const ports = [
    { port: TCP, name: 'tcp' },
    { port: UDP, protocol: 'udp', name: 'udp' },
  ]
  const constraints = [{ type: 'direct', cluster: 'edge', node: 'there' }]
  const spec = program('echo', 1, { cmd: [process.execPath, '-e', speaker], ports, constraints })
  await mesh.apply([{ ...spec, port: undefined }], 1)
  const here = mesh.node('here')
  const [host = ''] = await here.dns.resolve4(`${NAME}.any.rr.local`)
  t.equal(await byTcp(host), 'hello')
  t.equal(await byUdp(host, 10_000), 'hello')
  const scale = (replicas: number) => mesh.control.api.call('POST', `/services/${NAME}/scale`, { replicas })
  for (let i = 0; i < TIMES; i++) {
    await scale(0)
    await until(async () => (await byTcp(host)) === 'ECONNREFUSED', 'TCP is refused')
    await until(async () => (await byUdp(host, 500)) !== 'hello', 'UDP is not answered')
    t.pass('TCP is refused by the system, and UDP not answered')
    // callers that do not give up, as most programs
    const back = new AbortController()
    const calls = (async () => {
      while (!back.signal.aborted) await Promise.all([byTcp(host), byUdp(host, 50)])
    })()
    const scaled = scale(1)
    await scaled
    await mesh.control.running(1)
    const runningAt = performance.now()
    const [tcp, udp] = await Promise.all([since(runningAt, () => byTcp(host)), since(runningAt, () => byUdp(host, 50))])
    back.abort()
    await calls
    t.pass('both are served again')
    t.comment(`after the root has called it running: TCP ${tcp} ms, UDP ${udp} ms`)
  }
})
