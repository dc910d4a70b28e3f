import type { Host } from '../../src/lab/host.ts'
import { lab } from '../../src/lab/lab.ts'
import type { LinkKind } from '../../src/lab/link/link.ts'
import '../support/no-orphans.ts'

/** Where facts go: a test, or the console of a machine that has no test runner. */
export interface Judge {
  ok(fact: boolean, what: string): void
}

/** Connects `count` times, one after the other, and prints how long each took. */
const KNOCK = `
const net = require('node:net')
const [host, port, count] = process.argv.slice(1)
let left = Number(count)
const connect = () => {
  if (left-- === 0) return
  const from = performance.now()
  const s = net.connect({ host, port: Number(port), timeout: 2000 })
  const next = (what) => { s.destroy(); console.log(what); connect() }
  s.once('connect', () => next(performance.now() - from)).once('timeout', () => next('silence')).once('error', (e) => next(e.code))
}
connect()
`
const SINK = `
const net = require('node:net')
net.createServer((s) => { let bytes = 0; s.on('error', () => {}); s.on('data', (d) => (bytes += d.length)); s.on('end', () => s.end(String(bytes))) })
  .listen(7000, '0.0.0.0', () => console.log('ready'))
`
const SEND = `
const net = require('node:net')
const [host, bytes] = process.argv.slice(1)
const from = performance.now()
const s = net.connect({ host, port: 7000 })
s.end(Buffer.alloc(Number(bytes)))
s.on('data', (d) => console.log(String(d), performance.now() - from))
`

async function connect(from: Host, to: Host, count = 1): Promise<string[]> {
  return (await from.text([process.execPath, '-e', KNOCK, to.address, '7000', String(count)])).trim().split('\n')
}

/** What every link with conditions does, whoever carries its frames. Times are only ever held against what they cannot be below. */
export async function linkContract(kind: Exclude<LinkKind, 'plain'>, t: Judge): Promise<void> {
  await using net = await lab({ publics: ['near', 'far'], conditions: { near: { delayMs: 20 } }, links: kind })
  const [near, far] = [net.host('near'), net.host('far')]
  t.ok(net.links === kind, `the lab makes ${kind} links`)
  t.ok(near.kind === kind, 'where conditions are given')
  t.ok(far.kind === 'plain', 'and plain ones elsewhere')
  const sink = await new Promise<AsyncDisposable>((resolve) => {
    const program = far.spawn([process.execPath, '-e', SINK], { onLine: () => resolve(program) })
  })
  await using _sink = sink

  const delayed = (await connect(near, far, 5)).map(Number)
  t.ok(Math.min(...delayed) >= 39, `a round trip takes twice the delay (${Math.min(...delayed).toFixed(1)} ms)`)
  await near.change({ delayMs: 60 })
  const slower = (await connect(near, far, 3)).map(Number)
  t.ok(Math.min(...slower) >= 119, `changed while it runs (${Math.min(...slower).toFixed(1)} ms)`)

  await near.change({ lossPercent: 100 })
  t.ok((await connect(near, far)).join() === 'silence', 'all lost')
  await near.change({ lossPercent: 20 })
  t.ok(/\d/.test((await connect(near, far, 5)).join(' ')), 'with a fifth lost connections are still made')
  await near.change({})
  t.ok(/^[\d.]+$/.test((await connect(near, far)).join()), 'and without loss again')

  await near.change({ rateMbit: 20 })
  const [bytes, ms] = (await near.text([process.execPath, '-e', SEND, far.address, '500000']))
    .trim()
    .split(' ')
    .map(Number)
  t.ok(bytes === 500_000, 'every byte comes')
  t.ok(Number(ms) >= 150, `at 20 Mbit/s 500 kB take 200 ms, less what fits the queue (${ms?.toFixed(0)} ms)`)

  await near.change({ delayMs: 1 })
  await near.cut()
  t.ok(/silence|EHOSTUNREACH/.test((await connect(near, far)).join()), 'nothing passes a cut link')
  await near.heal()
  await near.exec(['ip', 'route', 'replace', 'default', 'via', '203.0.113.254'])
  t.ok(/^[\d.]+$/.test((await connect(near, far)).join()), 'a healed link carries again')
  const refused = await near.change({ lossPercent: 200 }).then(
    () => '',
    (error: unknown) => String(error),
  )
  t.ok(refused.includes('lossPercent 200'), 'what cannot be is refused')
}
