import t from 'tap'
import { inStep } from '../../src/core/kit/in-step.ts'
import { systemClock } from '../../src/core/kit/clock.ts'

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
