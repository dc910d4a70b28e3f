import t from 'tap'
import { Bell } from '../../src/core/kit/bell.ts'
import { ManualClock } from '../support/manual-clock.ts'

t.test('a bell wakes who waits, also when it was rung before, and once for many times', async (t) => {
  const clock = new ManualClock()
  const bell = new Bell()
  const before = bell.rung(50, clock)
  bell.ring()
  bell.ring()
  t.equal(await before, true, 'rung while somebody waits')
  bell.ring()
  t.equal(await bell.rung(50, clock), true, 'rung before')
  const idle = bell.rung(50, clock)
  await clock.advance(50)
  t.equal(await idle, false, 'the time is over')
  const next = bell.rung(50, clock)
  await clock.advance(49)
  bell.ring()
  t.equal(await next, true)
  await clock.advance(100)
  const last = bell.rung(50, clock)
  await clock.advance(50)
  t.equal(await last, false, 'nothing is left of earlier times')
})
