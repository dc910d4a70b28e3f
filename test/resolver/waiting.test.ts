import t from 'tap'
import { WaitingQuestions } from '../../resolver/waiting.ts'

/** Whose questions make room when nobody answers. */

/** The user of a question is its port divided by 10,000. */
function world(limit: number) {
  const asked: number[] = []
  const waiting = new WaitingQuestions({
    limit,
    users: {
      userOf: async ({ remotePort = 0 }) => (asked.push(remotePort), Math.floor(remotePort / 10_000) || undefined),
    },
  })
  /** A question that nobody answers. */
  const ask = (remotePort: number, remoteAddress = '127.0.0.1') => {
    const question = { isGone: false }
    void waiting.wait({ protocol: 'udp', remoteAddress, remotePort }, (signal) => {
      signal.addEventListener('abort', () => (question.isGone = true))
      return new Promise(() => undefined)
    })
    return question
  }
  return { waiting, ask, asked }
}

type Asked = { isGone: boolean }
const kept = (questions: readonly Asked[]) => questions.filter(({ isGone }) => !isGone).length
const turn = () => new Promise((resolve) => setImmediate(resolve))

t.test('a user that asks from thousands of ports loses its own questions', async (t) => {
  const { waiting, ask } = world(100)
  const honest = Array.from({ length: 20 }, (_, i) => ask(20_000 + i))
  const flood: Asked[] = []
  for (let i = 0; i < 5_000; i++) {
    flood.push(ask(10_000 + i, `127.0.${i >> 8}.${i & 255}`))
    await turn()
  }
  t.equal(kept(honest), 20, 'every question of another user waits on')
  t.equal(kept(flood), 80, 'the flood has the other places')
  t.equal(waiting.size, 100, 'no more wait than may')
})

t.test('of one user the socket that has most loses its oldest', async (t) => {
  const { ask } = world(100)
  const quiet = [ask(10_001), ask(10_002)]
  const busy = Array.from({ length: 500 }, () => ask(10_003))
  await turn()
  t.equal(kept(quiet), 2, 'those of other sockets wait on')
  t.equal(kept(busy), 98, 'the busy one has the rest')
  t.notOk(busy.at(-1)?.isGone, 'its newest is kept')
})

t.test('while few wait, nobody is asked whose questions they are', async (t) => {
  const { ask, asked } = world(100)
  for (let i = 0; i < 49; i++) ask(10_000 + i)
  t.same(asked, [], 'below half of the places')
  ask(10_050)
  t.equal(asked.length, 50, 'then about each, once')
})

t.test('a program on another machine is a source of its own', async (t) => {
  const { ask } = world(10)
  const remote = ask(10_000, '192.0.2.7')
  const here = Array.from({ length: 50 }, (_, i) => ask(10_000 + i))
  t.notOk(remote.isGone, 'it waits on')
  t.equal(kept(here), 9, 'this machine has the rest')
})
