import t from 'tap'
import { Fuzzer, loadTargets } from './fuzzer.ts'

t.setTimeout(170_000)

/** The short form of `npm run fuzz`: the kept corpus, and the same mutations on every machine. */
const EXECUTIONS = 3_000
const SEED = 1

for (const target of await loadTargets()) {
  t.test(`${target.name} takes any bytes`, async (t) => {
    const fuzzer = new Fuzzer(target, SEED)
    await fuzzer.run(EXECUTIONS)
    t.same(
      fuzzer.findings.map(({ reason, input }) => `${reason}: ${input.subarray(0, 200).toString('hex')}`),
      [],
    )
    t.ok(fuzzer.outcomes > 1, 'inputs are accepted and refused')
  })
}
