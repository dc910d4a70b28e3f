import t from 'tap'
import { until } from '../support/until.ts'

const LIMIT = { limitMs: 5, lookMs: 1 }

t.test('a wait ends with the state, by an answer of this process or a question', async (t) => {
  let looks = 0
  await until(() => ++looks === 3)
  await until(async () => ++looks === 6, 'six looks')
  t.equal(looks, 6)
})

t.test('a wait in vain says what was waited for, and what was there instead', async (t) => {
  const nodes = ['n1']
  const rows = [
    { why: 'the name', wait: until(() => false, 'two nodes', undefined, LIMIT), says: 'not within 0.005 s: two nodes' },
    {
      why: 'the claim itself',
      wait: until(() => nodes.length === 2, undefined, undefined, LIMIT),
      says: /: nodes\.length === 2$/,
    },
    {
      why: 'what was seen',
      wait: until(
        () => false,
        'two nodes',
        () => nodes,
        LIMIT,
      ),
      says: /; last seen: \["n1"\]$/,
    },
    {
      why: 'why nothing was seen',
      wait: until(
        () => false,
        'two nodes',
        () => Promise.reject(new Error('no root')),
        LIMIT,
      ),
      says: /; last seen: Error: no root$/,
    },
  ]
  await Promise.all(rows.map(({ why, wait, says }) => t.rejects(wait, { message: says }, why)))
})
