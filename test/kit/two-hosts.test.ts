import t from 'tap'
import { openMetrics } from '../../src/core/metrics.ts'
import { Ops } from '../../src/roles/ops-server.ts'
import { Client } from '../proxy/world.ts'

t.test('a request with two Host headers gets 400, with one it is answered', async (t) => {
  await using ops = await Ops.start({ host: '127.0.0.1', port: 0, metrics: openMetrics('agent'), ready: () => ({}) })
  for (const [hosts, status] of [
    ['Host: a\r\n', 200],
    ['Host: a\r\nhost: b\r\n', 400],
  ] as const) {
    using client = await Client.connect(Number(new URL(ops.address).port))
    client.socket.write(`GET /healthz HTTP/1.1\r\n${hosts}Connection: close\r\n\r\n`)
    await client.ended
    t.match(client.text, new RegExp(`^HTTP/1\\.1 ${status} `), hosts)
  }
})
