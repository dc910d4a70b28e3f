import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { openMetrics } from '../../src/core/metrics.ts'
import { Ops } from '../../src/roles/ops-server.ts'

t.test('health is answered while 2,000 silent connections are open to the port', async (t) => {
  await using ops = await Ops.start({ host: '127.0.0.1', port: 0, metrics: openMetrics('agent'), ready: () => ({}) })
  const port = Number(new URL(ops.address).port)
  const silent: Socket[] = []
  for (let i = 0; i < 2_000; i++) silent.push(connect({ port, host: '127.0.0.1' }).on('error', () => undefined))
  await Promise.all(silent.map(async (socket) => socket.connecting && (await once(socket, 'connect'))))
  const answer = await fetch(`${ops.address}/healthz`)
  t.equal(answer.status, 200)
  t.equal(await answer.text(), 'ok\n')
  for (const socket of silent) socket.destroy()
})
