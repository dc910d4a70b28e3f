import t from 'tap'
import { relayLoad } from '../bench/relay-load.ts'

t.setTimeout(280_000)

/** The short form of `npm run bench:relay`: a real relay in a process of its own, killed. */
t.test('a hundred nodes come, and come back by themselves when the relay restarts', async (t) => {
  const { restarts, kibPerNode } = await relayLoad({ nodes: 100, idleSeconds: 0.5, restarts: ['SIGKILL'] })
  t.equal(restarts.length, 1)
  for (const { how, downMs, backMs } of restarts)
    t.ok(backMs - downMs < 15_000, `${how}: all back ${Math.round(backMs - downMs)} ms after it`)
  t.ok(kibPerNode < 1_024, `${Math.round(kibPerNode)} KiB per node`)
})
