/**
 * UDP by name: two replicas of a small program that only speaks UDP, four players who roll five times each. Every player is
 * a flow of its own: round robin gives each a roller, and it keeps it.
 *
 *     npx node examples/dice.ts
 */
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  askAgent,
  defaults,
  readCredential,
  resolveConfig,
  type ResolveReport,
  RootClient,
  silentLog,
  Up,
} from '../src/index.ts'

/** What each replica runs. HOST and PORT say where to listen, HEDGEROW_INSTANCE which instance it is. */
const roller = `
  const socket = require('dgram').createSocket('udp4')
  socket.on('message', (_roll, { port, address }) => {
    const eyes = 1 + Math.floor(Math.random() * 6)
    socket.send(JSON.stringify({ eyes, roller: process.env.HEDGEROW_INSTANCE }), port, address)
  })
  socket.bind(process.env.PORT, process.env.HOST)`

const state = await mkdtemp(join(tmpdir(), 'dice-'))
try {
  const anyPort = { listen: '127.0.0.1:0', opsListen: '127.0.0.1:0' }
  const config = resolveConfig(defaults(hostname()), {
    log: 'silent',
    root: anyPort,
    cluster: anyPort,
    agent: { listen: '127.0.0.1:0' },
  })
  await using _mesh = await Up.start({ state, config, version: '0.0.0' }, silentLog)

  const root = new RootClient(readCredential(join(state, 'root', 'admin.json')))
  await root.call('POST', '/apps', {
    sla_version: 'v2.0',
    customerID: 'Admin',
    applications: [
      {
        application_name: 'dice',
        application_namespace: 'demo',
        microservices: [
          {
            microservice_name: 'roller',
            microservice_namespace: 'demo',
            virtualization: 'process',
            cmd: [process.execPath, '-e', roller],
            port: '5000/udp',
            replicas: 2,
          },
        ],
      },
    ],
  })
  const isRunning = (instances: Array<{ state: string }>) =>
    instances.length === 2 && instances.every(({ state }) => state === 'running')
  while (!isRunning(await root.call('GET', '/instances'))) await sleep(50)

  const name = 'dice.demo.roller.demo.any.rr.local'
  const ask = async () => (await askAgent(join(state, 'agent', 'agent.sock'), '/resolve', { name })) as ResolveReport
  while ((await ask()).order.length < 2) await sleep(50)
  const { ipv4 } = await ask()
  console.log(`${name}:5000 is ${ipv4}`)
  await Promise.all([1, 2, 3, 4].map((player) => play(player, ipv4)))
} finally {
  await rm(state, { recursive: true, force: true })
}

async function play(player: number, address: string): Promise<void> {
  const socket = createSocket('udp4')
  const rolls: number[] = []
  const rollers = new Set<string>()
  for (let i = 0; i < 5; i++) {
    const { eyes, roller } = await roll(socket, address)
    rolls.push(eyes)
    rollers.add(roller)
  }
  socket.close()
  console.log(`player ${player} rolls ${rolls.join(' ')} with ${[...rollers].join(', ')}`)
}

/** Datagrams may be lost, so the sender repeats them. */
async function roll(socket: Socket, address: string): Promise<{ eyes: number; roller: string }> {
  for (;;) {
    socket.send('roll', 5000, address)
    const answered = await once(socket, 'message', { signal: AbortSignal.timeout(1_000) }).catch(() => undefined)
    if (answered !== undefined) return JSON.parse(String(answered[0])) as { eyes: number; roller: string }
  }
}
