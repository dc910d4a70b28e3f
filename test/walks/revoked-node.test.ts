import { createSocket } from 'node:dgram'
import { connect, createServer, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { EchoedFlow, SeparateProcesses } from './separate-processes.ts'

/**
 * A node is deleted while a peer has flows to it. `n0` calls, `n1` serves and is deleted, `n2` is another honest node, which hears of it
 * first where the control link of `n0` is down. The durations are in the output; what is asserted is that the flows are cut.
 */

/** Far more than it takes (docs/security.md has the bound of an honest path): a busy machine must not fail the test. */
const LIMIT_MS = 20_000

t.setTimeout(280_000)

t.test('the cluster can be reached: the flows to a deleted node are cut', async (t) => {
  await using mesh = await SeparateProcesses.start(['n0', 'n1', 'n2'], 'agent: { drainSeconds: 1 }\n')
  await cutsFlows(t, mesh)
})

t.test('the control link of the peer is down: it hears of the deletion from another node', async (t) => {
  await using mesh = await SeparateProcesses.start(['n1', 'n2'], 'agent: { drainSeconds: 1 }\n')
  using way = await BreakableWay.to(mesh.clusterPort)
  await mesh.startAgentThrough(way.port, 'n0')
  const third = await callFromThird(mesh)
  await cutsFlows(t, mesh, () => way.cut())
  third.close()
})

/** `n0` and `n2` have a session, as `n0` calls what `n2` serves too. */
async function callFromThird(mesh: SeparateProcesses): Promise<EchoedFlow> {
  await mesh.serveEchoes('n2', 'other')
  return await EchoedFlow.open(await mesh.addressOf('n0', 'tcp', 'other'))
}

async function cutsFlows(t: Test, mesh: SeparateProcesses, before: () => void = () => undefined): Promise<void> {
  await mesh.serveEchoes('n1')
  const tcp = await EchoedFlow.open(await mesh.addressOf('n0', 'tcp'))
  using udp = await EchoedDatagrams.start(await mesh.addressOf('n0', 'udp'))
  before()
  await tcp.says('before it is deleted')
  const startedAt = performance.now()
  await mesh.machines.json('root', 'delete', 'node', 'edge/n1')
  const commandMs = performance.now() - startedAt
  for (const until = startedAt + LIMIT_MS; performance.now() < until; await pause(20))
    if (tcp.ended !== undefined && udp.silentMs > 500) break
  t.not(tcp.ended, undefined, 'the TCP flow was cut')
  t.ok(udp.silentMs > 500, 'no datagram comes back any more')
  const ms = (at: number) => Math.round(at - startedAt)
  t.comment(
    `from the start of the command: it took ${Math.round(commandMs)} ms, TCP cut after ${ms(tcp.ended?.at ?? 0)} ms ` +
      `(${tcp.ended?.why}), last datagram back after ${ms(udp.heardAt)} ms`,
  )
  const refused = await EchoedFlow.open(await mesh.addressOf('n0', 'tcp').catch(() => '127.0.0.1')).catch(
    () => undefined,
  )
  t.equal(refused, undefined, 'and no new flow reaches it')
}

/** Datagrams that are sent all the time, and answered. */
class EchoedDatagrams implements Disposable {
  readonly #socket = createSocket('udp4')
  readonly #timer: NodeJS.Timeout
  heardAt = 0

  private constructor(host: string) {
    this.#socket.on('message', () => (this.heardAt = performance.now())).on('error', () => undefined)
    this.#timer = setInterval(() => this.#socket.send('x', 8080, host), 10)
  }

  static async start(host: string): Promise<EchoedDatagrams> {
    const datagrams = new EchoedDatagrams(host)
    for (const until = performance.now() + 60_000; datagrams.heardAt === 0; await pause(20))
      if (performance.now() > until) throw new Error('no datagram came back')
    return datagrams
  }

  get silentMs(): number {
    return performance.now() - this.heardAt
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer)
    this.#socket.close()
  }
}

/** Forwards connections until it is cut. */
class BreakableWay implements Disposable {
  readonly #open = new Set<Socket>()
  readonly #server = createServer((near) => {
    const far = connect(this.#to, '127.0.0.1')
    for (const end of [near, far]) {
      this.#open.add(end)
      end.on('error', () => undefined).on('close', () => (near.destroy(), far.destroy()))
    }
    near.pipe(far).pipe(near)
  })
  readonly #to: number

  private constructor(to: number) {
    this.#to = to
  }

  static async to(port: number): Promise<BreakableWay> {
    const way = new BreakableWay(port)
    await new Promise<void>((resolve) => way.#server.listen(0, '127.0.0.1', resolve))
    return way
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port
  }

  cut(): void {
    this.#server.close()
    for (const end of this.#open) end.destroy()
  }

  [Symbol.dispose](): void {
    this.cut()
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
