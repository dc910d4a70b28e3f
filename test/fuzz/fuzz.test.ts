import t from 'tap'
import { Fuzzer, loadTargets } from './fuzzer.ts'

t.setTimeout(280_000)

/**
 * The short form of `npm run fuzz`: the kept corpus, and the same mutations on every machine, until so many in a row have shown
 * nothing new. Decoders that take milliseconds for each would need a third of a minute otherwise.
 */
const MOST_EXECUTIONS = 3_000
const FRUITLESS = 1_000
const STEP = 100
const SEED = 1

for (const target of await loadTargets()) {
  t.test(`${target.name} takes any bytes`, async (t) => {
    const fuzzer = new Fuzzer(target, SEED)
    let fruitless = 0
    for (let done = 0; done < MOST_EXECUTIONS && fruitless < FRUITLESS; done += STEP) {
      const before = fuzzer.outcomes
      await fuzzer.run(STEP)
      fruitless = fuzzer.outcomes > before ? 0 : fruitless + STEP
    }
    t.same(
      fuzzer.findings.map(({ reason, input }) => `${reason}: ${input.subarray(0, 200).toString('hex')}`),
      [],
    )
    t.ok(fuzzer.outcomes > 1, 'inputs are accepted and refused')
  })
}
