import t from 'tap'
import { inStep, Steps } from '../../src/core/kit/in-step.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { ManualClock } from '../support/manual-clock.ts'

t.test('what waits alike wakes together', async (t) => {
  const rows: [now: number, ms: number, waits: number, why: string][] = [
    [0, 2_000, 2_000, 'in step already'],
    [90, 2_000, 1_910, 'earlier by less than half a step'],
    [130, 2_000, 2_120, 'or later'],
    [90.4, 2_000, 1_910, 'a timer of whole milliseconds is not early'],
    [90, 250, 160, 'one step'],
    [90, 100, 100, 'what is short stays as it is'],
  ]
  for (const [now, ms, waits, why] of rows) t.equal(inStep(now, ms), waits, why)
  const wakes = Array.from({ length: 170 }, (_, i) => i * 11.7).map((now) => Math.floor(now + inStep(now, 2_000)))
  t.ok(new Set(wakes).size <= 9, `170 checks within 2 s wake the process ${new Set(wakes).size} times`)
})

t.test('what sleeps in steps has one timer for all that wake in the same one', async (t) => {
  const clock = new ManualClock()
  const steps = new Steps(clock)
  const woken: number[] = []
  await clock.advance(100)
  const sleepers = Array.from({ length: 170 }, (_, i) => () => void woken.push(i))
  const at = sleepers.map((wake) => steps.wakeAfter(2_000, wake))
  t.equal(clock.sleepers, 1)
  steps.cancel(at[7] ?? 0, sleepers[7] ?? (() => undefined))
  await clock.advance(1_899)
  t.same(woken, [], 'not yet')
  await clock.advance(1)
  t.same(
    woken,
    Array.from(sleepers.keys()).filter((i) => i !== 7),
  )
  const again = () => void (woken.length < 175 && steps.wakeAfter(0, again), woken.push(-1))
  steps.wakeAfter(0, again)
  for (let i = 0; i < 10; i++) await clock.advance(250)
  t.equal(woken.length, 176, 'whoever sleeps again as it wakes does so until the next step')
  const last = () => undefined
  steps.cancel(steps.wakeAfter(60_000, last), last)
  t.equal(clock.sleepers, 0, 'nobody is left, and no timer')
})

t.test('what is to sleep longer than a timer of Node’s can sleeps, and does not wake at once', async (t) => {
  const end = new AbortController()
  let woken = 0
  const sleeping = systemClock.sleep(2 ** 31 + 50, end.signal).then(() => (woken += 1))
  const cancel = systemClock.after(2 ** 40, () => (woken += 1))
  await systemClock.sleep(20)
  t.equal(woken, 0)
  cancel()
  end.abort()
  await sleeping
  t.equal(woken, 1)
})
