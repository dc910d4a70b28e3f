import t from 'tap'
import { race, type Runner } from '../../src/core/kit/race.ts'
import { ManualClock } from '../support/manual-clock.ts'

const forever = new AbortController().signal
const ignore = () => undefined

/** Runners that are settled by hand. */
function runners(...aloneMs: readonly number[]) {
  const started: number[] = []
  const ends = aloneMs.map(() => Promise.withResolvers<string>())
  const all = aloneMs.map(
    (ms, i): Runner<string> => ({
      aloneMs: ms,
      run: () => {
        started.push(i)
        return ends[i]!.promise
      },
    }),
  )
  return { started, ends, all }
}

t.test('each runner starts when the one before it has been alone for its time', async (t) => {
  const clock = new ManualClock()
  const { started, ends, all } = runners(100, 50, 10)
  const winner = race(all, { clock, discard: ignore }, forever)
  t.same(started, [0])
  await clock.advance(99)
  t.same(started, [0])
  await clock.advance(1)
  t.same(started, [0, 1])
  await clock.advance(50)
  t.same(started, [0, 1, 2])
  ends[2]!.resolve('third')
  t.equal(await winner, 'third')
})

t.test('when all running contenders have failed, the next starts at once', async (t) => {
  const clock = new ManualClock()
  const { started, ends, all } = runners(100, 100)
  const winner = race(all, { clock, discard: ignore }, forever)
  ends[0]!.reject(new Error('refused'))
  await clock.advance(0)
  t.same(started, [0, 1])
  ends[1]!.resolve('second')
  t.equal(await winner, 'second')
})

t.test('a repetition starts beside a runner that waits, and never because all have failed', async (t) => {
  const clock = new ManualClock()
  const waiting = runners(100, 100)
  const repeated = [waiting.all[0]!, { ...waiting.all[1]!, isRepeat: true }]
  const winner = race(repeated, { clock, discard: ignore }, forever)
  await clock.advance(100)
  t.same(waiting.started, [0, 1])
  waiting.ends[1]!.resolve('again')
  t.equal(await winner, 'again')

  const failing = runners(100, 100)
  const lost = race([failing.all[0]!, { ...failing.all[1]!, isRepeat: true }], { clock, discard: ignore }, forever)
  failing.ends[0]!.reject(new Error('refused'))
  await t.rejects(lost, AggregateError)
  t.same(failing.started, [0])
})

t.test('a result after the first is discarded', async (t) => {
  const clock = new ManualClock()
  const { ends, all } = runners(0, 0)
  const late: string[] = []
  const winner = race(all, { clock, discard: (one) => late.push(one) }, forever)
  ends[0]!.resolve('first')
  t.equal(await winner, 'first')
  ends[1]!.resolve('second')
  await clock.advance(0)
  t.same(late, ['second'])
})

t.test('the caller ends the race with the reason it gives', async (t) => {
  const clock = new ManualClock()
  const { started, all } = runners(10, 10)
  const caller = new AbortController()
  const lost = race(all, { clock, discard: ignore }, caller.signal)
  caller.abort(new Error('closed'))
  await t.rejects(lost, /closed/)
  await clock.advance(1_000)
  t.same(started, [0], 'nothing more is tried')
  await t.rejects(race(all, { clock, discard: ignore }, caller.signal), /closed/)
})
