import { spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { createServer } from 'node:net'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import type { CallerEnd, InterceptParts } from '../../proxy/intercept/interceptor.ts'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import { systemNft } from '../../proxy/intercept/nft.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { vipRange } from '../../src/core/model/address.ts'
import { Client, keptLog, LiteralTable } from './world.ts'

/* A machine in a namespace whose mesh has a service on ports 22 and 53/udp, and that starts its own servers there later. */

spawnSync('ip', ['link', 'set', 'lo', 'up'])
const range = vipRange('127.16.0.0/12')
const SERVICE = 'shop.acme.ssh.prod'
const table = new LiteralTable({
  id: SERVICE,
  on: ['edge/a'],
  ports: [22],
  udp: [53],
  vips: { 'any.rr': 0xe0203 },
})
const parts: InterceptParts = {
  table,
  onFlow: ({ socket, port }) => void socket.end(`mesh on ${port}`),
  onDatagramClient: (client) => ({ datagram: () => void client.answer(Buffer.from('mesh')), end: () => undefined }),
  clock: systemClock,
  log: keptLog(),
  metrics: openMetrics('agent'),
}
const callers: CallerEnd[] = []
const identify = (end: CallerEnd) => (callers.push(end), NODE_CALLER)
const start = (isSuccessor: boolean) =>
  LoopbackInterceptor.start({ range, nft: systemNft, isSuccessor }, identify, parts)

async function call(port: number, address: string): Promise<string> {
  try {
    const client = await Client.connect(port, address)
    await client.ended
    return client.text
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code)
  }
}

async function ask(port: number, address: string): Promise<string> {
  const socket = createSocket('udp4').bind(0, '127.0.0.1')
  socket.connect(port, address, () => socket.send('x'))
  const [payload] = (await once(socket, 'message')) as [Buffer]
  socket.close()
  return payload.toString()
}

const loopback = await start(false)
await loopback.settled()
const found: Record<string, unknown> = { rules: loopback.rules.isOn }
found['vip'] = await call(22, '127.30.2.3')
found['datagram'] = await ask(53, '127.30.2.3')
found['caller'] = callers[0]
const sshd = createServer((socket) => socket.end('machine')).listen(22, '0.0.0.0')
await once(sshd, 'listening')
const named = createSocket('udp4').bind(53, '0.0.0.0')
await once(named, 'listening')
found['sshd'] = 'listens'
found['machine'] = await call(22, '127.0.0.1')
found['vipBesideSshd'] = await call(22, '127.30.2.3')
found['otherVip'] = await call(22, '127.30.2.4')

// a port that nobody has used yet is ready when its name is answered
table.set({ id: 'shop.acme.db.prod', on: ['edge/a'], ports: [5432], vips: { 'any.rr': 0xe0204 } })
await loopback.prepare(table.target('shop.acme.db.prod'))
found['firstContact'] = await call(5432, '127.30.2.4')

spawnSync('nft', ['flush', 'ruleset'])
await sleep(1_000)
found['afterFlush'] = await call(22, '127.30.2.3')

const successor = await start(true)
await successor.settled()
await loopback.close()
found['successor'] = await call(22, '127.30.2.3')
await successor.close()
found['tablesAfter'] = spawnSync('nft', ['list', 'tables'], { encoding: 'utf8' }).stdout.trim()
console.log(JSON.stringify(found))
process.exit(0)
