import { fork } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { query, withOpt, world } from '../resolver/world.ts'

/**
 * The resolver alone: answers from the table over real UDP, A with EDNS and AAAA in turns, asked from another process. Quick figures
 * to tune by, not to publish: `node --cpu-prof test/bench/dns-micro.ts [seconds] [questions under way]`.
 */
const [first, ...rest] = process.argv.slice(2)
if (first === 'ask') ask(Number(rest[0]), Number(rest[1]))
else await serve(Number(first ?? 2), rest[0] ?? '64')

async function serve(seconds: number, underWay: string): Promise<void> {
  await using mesh = await world()
  const asker = fork(import.meta.filename, ['ask', String(mesh.port), underWay], { execArgv: [] })
  await once(asker, 'message')
  const before = performance.eventLoopUtilization()
  const startedMs = performance.now()
  setTimeout(() => asker.send('stop'), seconds * 1_000)
  const [answers] = (await once(asker, 'message')) as [number]
  const { active } = performance.eventLoopUtilization(before)
  const rate = Math.round(answers / ((performance.now() - startedMs) / 1_000))
  console.log(`${rate} answers/s, ${((active / answers) * 1_000).toFixed(1)} µs of the resolver's loop each`)
}

function ask(port: number, underWay: number): void {
  const packets = [withOpt(query({})), query({ type: 'AAAA' })]
  let answers = 0
  const socket = createSocket({ type: 'udp4', recvBufferSize: 1 << 20 })
  const next = () => socket.send(packets[answers & 1] as Buffer)
  socket.on('message', () => {
    answers++
    next()
  })
  socket.connect(port, '127.0.0.1', () => {
    process.send?.('start')
    for (let i = 0; i < underWay; i++) next()
  })
  process.once('message', () => {
    process.send?.(answers)
    socket.close()
    process.disconnect()
  })
}
