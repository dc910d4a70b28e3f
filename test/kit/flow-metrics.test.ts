import { Counter, Histogram, Registry } from 'prom-client'
import t from 'tap'
import { FlowCounter, FlowHistogram } from '../../src/core/kit/flow-metrics.ts'

const OUTCOMES = ['opened', 'refused', 'timeout']
const SECONDS = [0, 0.0005, 0.001, 0.0011, 0.02, 1, 2.5, 100]

t.test('what is counted and recorded is scraped as prom-client itself would have counted it', async (t) => {
  const [ours, theirs] = [new Registry(), new Registry()]
  for (const registry of [ours, theirs]) registry.setDefaultLabels({ role: 'agent' })
  const counted = { name: 'tries_total', help: 'Tries.', labelNames: ['outcome', 'path'] as const }
  const observed = { name: 'connect_seconds', help: 'Times.', labelNames: ['path'] as const, buckets: [0.001, 0.01, 1] }
  const counter = new FlowCounter({ ...counted, registers: [ours] })
  const histogram = new FlowHistogram({ ...observed, registers: [ours] })
  const plainCounter = new Counter({ ...counted, registers: [theirs] })
  const plainHistogram = new Histogram({ ...observed, registers: [theirs] })
  const isSame = async (when: string) =>
    t.strictSame(sorted(await ours.metrics()), sorted(await theirs.metrics()), when)

  await isSame('nothing yet')
  for (let round = 0; round < 3; round++) {
    for (const [i, outcome] of OUTCOMES.entries()) {
      const path = i === 0 ? 'direct' : 'relayed'
      counter.count({ outcome, path }, i + 1)
      plainCounter.inc({ outcome, path }, i + 1)
      for (const seconds of SECONDS) {
        histogram.record(path, seconds * (round + 1))
        plainHistogram.observe({ path }, seconds * (round + 1))
      }
    }
    await isSame(`after round ${round}`)
    await isSame('and a scrape takes nothing away')
  }
  counter.inc({ outcome: 'opened', path: 'direct' }, 7)
  plainCounter.inc({ outcome: 'opened', path: 'direct' }, 7)
  await isSame('inc beside count')
  const [one, other] = await Promise.all([histogram.get(), plainHistogram.get()])
  t.match(other.values, one.values, 'read one by one')
})

/** The order of labels within a line means nothing. */
function sorted(text: string): string[] {
  const lines = text.split('\n').filter((line) => line !== '')
  return lines.map((line) =>
    line.replace(/\{(.*)\}/, (_, labels: string) => `{${labels.split(',').toSorted().join(',')}}`),
  )
}
