import t from 'tap'
import { background } from '../../src/core/kit/background.ts'
import { Paced } from '../../src/core/kit/paced.ts'
import { ManualClock } from '../support/manual-clock.ts'

const turn = () => new Promise<void>((resolve) => void setImmediate(resolve))

t.test('what is due alone is done at the end of the turn, what comes in numbers is gathered', async (t) => {
  const clock = new ManualClock()
  let done = 0
  using paced = new Paced({ name: 'test', work: () => void (done += 1), everyMs: 50, clock })
  const due = async () => {
    paced.due()
    await turn()
    return done
  }
  t.equal(await due(), 1, 'at once')
  for (let i = 0; i < 3; i++) t.equal(await due(), 1, 'it rests')
  await clock.advance(49)
  t.equal(done, 1)
  await clock.advance(1)
  t.equal(done, 2, 'once for all three')
  await clock.advance(50)
  t.equal(done, 2, 'nothing was due')
  t.equal(await due(), 3, 'at once again')
})

t.test('what is due when it ends is not done', async (t) => {
  const clock = new ManualClock()
  let done = 0
  for (const isResting of [false, true]) {
    const paced = new Paced({ name: 'test', work: () => void (done += 1), everyMs: 50, clock })
    if (isResting) {
      paced.due()
      await turn()
    }
    const before = done
    paced.due()
    paced[Symbol.dispose]()
    await clock.advance(100)
    await turn()
    t.equal(done, before)
  }
})

t.test('what fails stays due, and is recorded', async (t) => {
  const clock = new ManualClock()
  const name = 'paced work that fails'
  let tries = 0
  const paced = new Paced({
    name,
    work: () => {
      tries += 1
      paced.due() // it has more to do
      if (tries < 3) throw new Error('the disk is full')
    },
    everyMs: 50,
    clock,
  })
  paced.due()
  await turn()
  t.equal(tries, 1)
  await clock.advance(999)
  t.equal(tries, 1, 'it rests')
  await clock.advance(1)
  await clock.advance(1_000)
  t.equal(tries, 3)
  t.match(
    background.failures().find((failure) => failure.name === name),
    { failures: 2 },
  )
  await clock.advance(50)
  t.equal(tries, 4, 'from then on as before')
  paced[Symbol.dispose]()
  await clock.advance(2_000)
  t.equal(tries, 4)
})
