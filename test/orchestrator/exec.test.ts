import { randomBytes } from 'node:crypto'
import { PassThrough } from 'node:stream'
import { test } from 'tap'
import { execFrame, execFrames } from '../../src/core/kit/exec-frames.ts'
import { ExecStreams } from '../../src/orchestrator/worker/exec-streams.ts'
import type { InstanceCommand } from '../../src/orchestrator/worker/runtime.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { mesh, sla } from './mesh.ts'
import { ask } from './v1.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

/* Commands in instances, from the API of the root to a node and back. */

const INSTANCE = 'shop.acme.cart.prod.0'

async function outcome(chunks: AsyncIterable<Buffer>): Promise<{ stdout: Buffer; stderr: Buffer; code: number }> {
  const parts = { stdout: [] as Buffer[], stderr: [] as Buffer[] }
  let code = -1
  for await (const { kind, bytes } of execFrames(chunks)) {
    if (kind === 'exit') code = Number(bytes.toString())
    else parts[kind].push(Buffer.from(bytes))
  }
  return { stdout: Buffer.concat(parts.stdout), stderr: Buffer.concat(parts.stderr), code }
}

test('a command reads and prints through root and cluster, byte for byte, and ends with who started it', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await world.running(1)
  const { api } = world
  const { signal } = new AbortController()
  const begin = async (...cmd: string[]) =>
    (await api.ask('POST', '/v1/instances/{name}/exec', { path: { name: INSTANCE }, body: { cmd } })).exec
  const output = (exec: string, until = signal) => api.bytes('/v1/exec/{exec}', { path: { exec } }, until)
  const bring = (exec: string, body: Buffer, query = {}) =>
    api.ask('POST', '/v1/exec/{exec}/input', { path: { exec }, query, body }, signal)

  const data = randomBytes(1_500_000)
  const number = await begin('sh', '-c', 'cat; echo aside >&2; exit 7')
  const running = outcome(output(number))
  for (let at = 0; at < data.length; at += 400_000) await bring(number, data.subarray(at, at + 400_000))
  await bring(number, Buffer.alloc(0), { last: true })
  const { stdout, stderr, code } = await running
  t.ok(stdout.equals(data), 'all that it was given came back')
  t.same([String(stderr), code], ['aside\n', 7])
  await t.rejects(bring(number, data.subarray(0, 1)), { code: 'COMMAND_UNKNOWN' })
  const events = await api.call<{ what: string; why?: string }[]>('GET', `/events?name=${INSTANCE}`)
  t.ok(
    events.some(({ what, why }) => what === 'entered' && why === 'sh'),
    'it is remembered',
  )

  const abort = new AbortController()
  const frames = execFrames(output(await begin('sh', '-c', 'echo $$; exec sleep 100'), abort.signal))
  const { value } = await frames.next()
  const pid = Number(String(value?.bytes))
  abort.abort()
  await t.rejects(frames.next())
  const isGone = () => {
    try {
      return !process.kill(pid, 0)
    } catch {
      return true
    }
  }
  await until(isGone, 'it has ended, since nobody reads any more')
  await t.rejects(api.call('POST', '/instances/shop.acme.cart.prod.9/exec', { cmd: ['true'] }), {
    code: 'INSTANCE_UNKNOWN',
  })
  await t.rejects(begin(), { code: 'USAGE' })
  const wrong = await ask(world, `/v1/exec/${'0'.repeat(32)}/input`, { method: 'POST', body: {} })
  t.match(wrong, { status: 415, headers: { 'content-type': 'application/problem+json' } }, 'what it reads is no JSON')
  const earlier = await api.call<{ exec: string }>('POST', `/instances/${INSTANCE}/exec`, { cmd: ['true'] })
  t.match(earlier.exec, /^[0-9a-f]{32}$/, 'the path of earlier versions')
})

test('a command whose output nobody reads has to wait; its end is told after all that it printed', async (t) => {
  const [stdin, stdout, stderr] = [new PassThrough({ highWaterMark: 10 }), new PassThrough(), new PassThrough()]
  const exit = Promise.withResolvers<number>()
  let killed = 0
  const command: InstanceCommand = { stdin, stdout, stderr, ended: exit.promise, kill: () => void killed++ }
  using streams = new ExecStreams({ exec: async () => command }, { ...systemClock, sleep: async () => undefined })
  const name = await streams.open({ instance: INSTANCE, cmd: ['x'] })

  t.same(await streams.read(name), { printed: [] }, 'that it says nothing is an answer')
  stdout.write(Buffer.alloc(300_000))
  await until(() => stdout.isPaused(), 'it waits')
  stdout.end('last')
  stderr.end()
  exit.resolve(3)
  const first = await streams.read(name)
  t.equal(first.printed[0]?.bytes.length, 300_000)
  let rest = await streams.read(name)
  while (rest.exitCode === undefined) rest = await streams.read(name)
  t.equal(rest.exitCode, 3)
  await t.rejects(streams.read(name), { code: 'REQUEST_FAILED' }, 'it is forgotten')

  const other = await streams.open({ instance: INSTANCE, cmd: ['x'] })
  t.ok(await streams.write(other, Buffer.alloc(20), false))
  t.notOk(await streams.write(other, Buffer.from('x'), false), 'it has not read what it has')
  streams.close(other)
  t.equal(killed, 2, 'one that is closed is ended')
})

test('frames, however they are cut', async (t) => {
  const all = Buffer.concat([execFrame('stdout', Buffer.from('one')), execFrame('exit', Buffer.from('0'))])
  for (let cut = 0; cut <= all.length; cut++) {
    const read = []
    for await (const frame of execFrames(
      (async function* () {
        yield all.subarray(0, cut)
        yield all.subarray(cut)
      })(),
    ))
      read.push([frame.kind, String(frame.bytes)])
    t.same(read, [
      ['stdout', 'one'],
      ['exit', '0'],
    ])
  }
  const drain = async (bytes: number[]) => {
    for await (const _ of execFrames(
      (async function* () {
        yield Buffer.from(bytes)
      })(),
    ))
      t.fail('there is no frame in it')
  }
  await t.rejects(drain([9, 0, 0, 0, 0]), /not the output/)
  await t.rejects(drain([1, 255, 0, 0, 0]), /not the output/)
})
