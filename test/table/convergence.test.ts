import fc from 'fast-check'
import t from 'tap'
import { SimulatedCluster, type Step } from './simulated-cluster.ts'

/** How often each step is taken, beside the others, and the highest `which` it may concern. */
const STEPS: ReadonlyArray<{ kind: Step['kind']; weight: number; highest: number }> = [
  { kind: 'put', weight: 5, highest: 3 },
  { kind: 'delete', weight: 2, highest: 3 },
  { kind: 'ask', weight: 3, highest: 2 },
  { kind: 'forget', weight: 1, highest: 2 },
  { kind: 'changes', weight: 4, highest: 3 },
  { kind: 'answer', weight: 4, highest: 0 },
  { kind: 'reconnect', weight: 1, highest: 1 },
  { kind: 'renumber', weight: 1, highest: 0 },
]

t.test('whatever is lost, late or renumbered, the table ends up equal to that of the cluster', async (t) => {
  const step = fc.oneof(
    ...STEPS.map(({ kind, weight, highest }) => ({
      weight,
      arbitrary: fc.record({ kind: fc.constant(kind), which: fc.nat({ max: highest }) }),
    })),
  )
  let reconnects = 0
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const cluster = new SimulatedCluster()
      for (const taken of steps) cluster.step(taken)
      cluster.settle()
      reconnects += cluster.reconnects
      const difference = cluster.difference()
      if (difference !== undefined) throw new Error(difference)
    }),
    { numRuns: 2_000 },
  )
  t.ok(reconnects > 2_000, `links broke often enough to prove something: ${reconnects} resumptions`)
})
