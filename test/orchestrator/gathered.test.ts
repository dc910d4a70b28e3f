import t from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import { Gathered, type Outcome } from '../../src/orchestrator/link/gathered.ts'

interface Peer {
  name: string
}

/** Keeps what was asked; `answer` decides about each item. */
function asked(options: { isOld?: boolean; sizeOf?: (item: number) => number } = {}) {
  const messages: string[] = []
  const answer = (item: number): Outcome<string> =>
    item < 0 ? { error: new MeshError('UNPLACEABLE', { reason: 'negative' }) } : { value: `ok ${item}` }
  const gathered = new Gathered<Peer, number, string>({
    ...(options.sizeOf === undefined ? {} : { sizeOf: options.sizeOf }),
    many: async ({ name }, items) => {
      messages.push(`${name}: many ${items.length}`)
      if (options.isOld === true) throw new MeshError('MESSAGE_INVALID', { problem: 'unknown request assign.many' })
      return items.map(answer)
    },
    one: async ({ name }, item) => {
      messages.push(`${name}: one ${item}`)
      const outcome = answer(item)
      if ('error' in outcome) throw outcome.error as Error
      return outcome.value
    },
  })
  return { gathered, messages }
}

const [a, b] = [{ name: 'a' }, { name: 'b' }]

t.test('what is asked of a peer in one turn is one message', async (t) => {
  const { gathered, messages } = asked()
  const answers = await Promise.all([...[1, 2, 3].map((item) => gathered.ask(a, item)), gathered.ask(b, 4)])
  t.same(answers, ['ok 1', 'ok 2', 'ok 3', 'ok 4'])
  t.same(messages, ['a: many 3', 'b: one 4'])
})

t.test('each has its own outcome', async (t) => {
  const { gathered } = asked()
  const [good, bad] = await Promise.allSettled([gathered.ask(a, 1), gathered.ask(a, -1)])
  t.match(good, { status: 'fulfilled', value: 'ok 1' })
  t.match(bad, { status: 'rejected', reason: { code: 'UNPLACEABLE' } })
})

t.test('a message has at most 100 items, and at most half a mebibyte', async (t) => {
  const many = asked()
  await Promise.all(Array.from({ length: 250 }, (_, item) => many.gathered.ask(a, item)))
  t.same(many.messages, ['a: many 100', 'a: many 100', 'a: many 50'])
  const large = asked({ sizeOf: () => 200 * 1024 })
  await Promise.all(Array.from({ length: 5 }, (_, item) => large.gathered.ask(a, item)))
  t.same(large.messages, ['a: many 2', 'a: many 2', 'a: one 4'])
})

t.test('a peer of an earlier version is asked one by one, from the first refusal on', async (t) => {
  const { gathered, messages } = asked({ isOld: true })
  t.same(await Promise.all([gathered.ask(a, 1), gathered.ask(a, 2)]), ['ok 1', 'ok 2'])
  t.same(await Promise.all([gathered.ask(a, 3), gathered.ask(a, 4)]), ['ok 3', 'ok 4'])
  t.same(messages, ['a: many 2', 'a: one 1', 'a: one 2', 'a: one 3', 'a: one 4'])
})

t.test('a link that breaks is told to all who asked', async (t) => {
  const gathered = new Gathered<Peer, number, string>({
    many: () => Promise.reject(new MeshError('LINK_CLOSED', {})),
    one: () => Promise.reject(new MeshError('LINK_CLOSED', {})),
  })
  const settled = await Promise.allSettled([gathered.ask(a, 1), gathered.ask(a, 2)])
  t.match(settled, [{ reason: { code: 'LINK_CLOSED' } }, { reason: { code: 'LINK_CLOSED' } }])
})

t.test('a peer that has much to read is asked when it can take more, with what was asked meanwhile', async (t) => {
  const gate = Promise.withResolvers<void>()
  const messages: number[] = []
  const gathered = new Gathered<Peer, number, string>({
    ready: () => gate.promise,
    many: async (_peer, items) => (messages.push(items.length), items.map((item) => ({ value: `ok ${item}` }))),
    one: async () => 'one',
  })
  const first = gathered.ask(a, 1)
  await new Promise<void>((resolve) => void setImmediate(() => setImmediate(resolve)))
  t.same(messages, [], 'not yet')
  const second = gathered.ask(a, 2)
  gate.resolve()
  t.same(await Promise.all([first, second]), ['ok 1', 'ok 2'])
  t.same(messages, [2])
})

t.test('what is asked while the peer works on a message goes together when it has answered', async (t) => {
  const gate = Promise.withResolvers<void>()
  const messages: number[] = []
  const gathered = new Gathered<Peer, number, string>({
    many: async (_peer, items) => (messages.push(items.length), items.map((item) => ({ value: `ok ${item}` }))),
    one: async (_peer, item) => (messages.push(1), await gate.promise, `ok ${item}`),
  })
  const turn = () => new Promise<void>((resolve) => void setImmediate(resolve))
  const asked = [gathered.ask(a, 1)]
  await turn()
  t.same(messages, [1], 'the first at once')
  asked.push(gathered.ask(a, 2))
  await turn()
  asked.push(gathered.ask(a, 3))
  await turn()
  gate.resolve()
  t.same(await Promise.all(asked), ['ok 1', 'ok 2', 'ok 3'])
  t.same(messages, [1, 2])
})

t.test('an answer that does not come does not hold up what is asked behind it', async (t) => {
  const messages: number[] = []
  const gathered = new Gathered<Peer, number, string>({
    many: async (_peer, items) => items.map((item) => ({ value: `ok ${item}` })),
    one: (_peer, item) => (messages.push(item), item === 1 ? new Promise(() => undefined) : Promise.resolve('ok')),
  })
  void gathered.ask(a, 1)
  await new Promise<void>((resolve) => void setImmediate(resolve))
  t.equal(await gathered.ask(a, 2), 'ok')
  t.same(messages, [1, 2])
})
