import { test } from 'tap'
import { background } from '../../src/core/kit/background.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { flow, Mesh, reach } from '../support/tunnel-mesh.ts'

const NAME = 'tunnel upkeep of a peer'

test('upkeep that fails for one peer is shown, and goes on for the others', async (t) => {
  const stop = background.logTo(silentLog)
  t.teardown(stop)
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/bad', 'direct c/a>c/good')
  const a = mesh.node('c/a', {
    reach: (node) => {
      if (node === 'c/bad') throw new Error('injected')
      return reach(node)
    },
  })
  mesh.node('c/bad')
  const good = mesh.node('c/good')
  t.same((await flow(mesh, a, 'c/bad')).log, ['opened'], 'the peer that fails is looked at first')
  const flowToGood = await flow(mesh, a, 'c/good')
  await mesh.clock.advance(1_000)
  const failure = background.failures().find(({ name }) => name === NAME)
  t.ok(failure !== undefined && failure.failures > 1, 'counted, for check and the metrics')

  mesh.wires.at(-1)!.isSilent = true // only pings, which upkeep sends, find out that this carrier is dead
  await mesh.clock.advance(5_000)
  flowToGood.stream.write(Buffer.from('still here'))
  await mesh.clock.advance(1_000)
  t.equal(good.heard[0]!.text(), 'still here')
})
