import t from 'tap'
import { background } from '../../src/core/kit/background.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { silentLog, type Fields, type Log } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import '../support/no-orphans.ts'

/** A log that keeps its error lines. */
function recordingLog() {
  const lines: { sentence: string; fields: Fields }[] = []
  const log: Log = { ...silentLog, error: (sentence, fields = {}) => lines.push({ sentence, fields }) }
  return { log, lines }
}

const failuresOf = (name: string) => background.failures().find((failure) => failure.name === name)?.failures ?? 0

t.test('a loop that throws is started again, logged and counted', async (t) => {
  const { log, lines } = recordingLog()
  const stop = background.logTo(log)
  const life = new Lifetime()
  const again = Promise.withResolvers<void>()
  let starts = 0
  life.spawn((signal) => {
    starts += 1
    if (starts === 1) throw new Error('injected')
    again.resolve()
    return new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
  }, 'test loop')
  await again.promise
  await life.close()
  stop()
  t.equal(starts, 2)
  t.match(lines, [
    { sentence: 'background work failed', fields: { task: 'test loop', error: { message: 'injected' } } },
  ])
  t.match(background.failures(), [{ name: 'test loop', failures: 1, isFailing: true }])
  const text = await openMetrics('agent').registry.metrics()
  t.match(text, 'hedgerow_background_failures_total{task="test-loop",role="agent"} 1')
})

t.test('a loop that returns before it is asked to end counts as a failure', async (t) => {
  await using life = new Lifetime()
  const again = Promise.withResolvers<void>()
  let starts = 0
  life.spawn(async (signal) => {
    starts += 1
    if (starts === 1) return
    again.resolve()
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
  }, 'early loop')
  await again.promise
  t.equal(failuresOf('early loop'), 1)
})

t.test('closing a lifetime ends a loop that waits to be started again', async (t) => {
  const life = new Lifetime()
  life.spawn(() => Promise.reject(new Error('always')), 'failing loop')
  await new Promise((resolve) => setImmediate(resolve))
  await life.close()
  const before = failuresOf('failing loop')
  await new Promise((resolve) => setTimeout(resolve, 250))
  t.equal(failuresOf('failing loop'), before)
})

t.test('a timer keeps running when a tick throws', async (t) => {
  await using life = new Lifetime()
  const second = Promise.withResolvers<void>()
  let ticks = 0
  const tick = () => {
    ticks += 1
    if (ticks === 1) throw new Error('injected')
    second.resolve()
  }
  life.every(5, tick, 'test timer')
  const keepAlive = setInterval(() => undefined, 1_000) // the timer of a lifetime does not keep the process alive
  await second.promise
  clearInterval(keepAlive)
  t.equal(failuresOf('test timer'), 1)
})

t.test('a detached task that fails is counted, and logged at most once a second', async (t) => {
  const { log, lines } = recordingLog()
  const stop = background.logTo(log)
  for (let i = 0; i < 100; i++) await background.run('test task', () => Promise.reject(new Error('injected')))
  stop()
  t.equal(failuresOf('test task'), 100)
  t.equal(lines.length, 1)
})
