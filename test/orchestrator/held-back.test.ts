import t from 'tap'
import { HeldBack } from '../../src/orchestrator/link/held-back.ts'
import '../support/no-orphans.ts'

function world() {
  const sent: string[] = []
  const failures: unknown[] = []
  const state: { disk?: PromiseWithResolvers<void> | undefined } = {}
  const held = new HeldBack({
    pending: () => state.disk?.promise,
    send: (text) => sent.push(text),
    onFailure: (error) => failures.push(error),
  })
  /** Something is written from now on, until the disk has it. */
  const write = () => {
    const disk = Promise.withResolvers<void>()
    state.disk = disk
    return {
      done: async () => {
        if (state.disk === disk) state.disk = undefined
        disk.resolve()
        await new Promise((resolve) => setImmediate(resolve))
      },
      fail: async () => {
        disk.reject(new Error('EIO'))
        await new Promise((resolve) => setImmediate(resolve))
      },
    }
  }
  return { held, sent, failures, write }
}

t.test('nothing waits while everything is on disk', async (t) => {
  const { held, sent } = world()
  held.send('a')
  t.same(sent, ['a'])
  t.equal(held.length, 0)
})

t.test('what is said after something was written waits for the disk, and what follows waits behind it', async (t) => {
  const { held, sent, write } = world()
  const first = write()
  held.send('a')
  held.send('b')
  const second = write()
  held.send('c')
  t.same(sent, [])
  t.equal(held.length, 3)
  await first.done()
  t.same(sent, ['a', 'b'], 'c follows from what is not on disk')
  await second.done()
  t.same(sent, ['a', 'b', 'c'])
  t.equal(held.length, 0)
  held.send('d')
  t.same(sent, ['a', 'b', 'c', 'd'])
})

t.test('order is kept when the disk has all before the held is sent', async (t) => {
  const { held, sent, write } = world()
  const first = write()
  held.send('a')
  const done = first.done()
  held.send('b') // nothing is pending, and a not sent yet
  await done
  t.same(sent, ['a', 'b'])
})

t.test('a link that has ended says nothing more', async (t) => {
  const { held, sent, write, failures } = world()
  const first = write()
  held.send('a')
  held.close()
  t.equal(held.length, 0)
  await first.done()
  t.same(sent, [])
  t.same(failures, [])
})

t.test('what cannot be saved is not said', async (t) => {
  const { held, sent, write, failures } = world()
  const first = write()
  held.send('a')
  await first.fail()
  t.same(sent, [])
  t.match(failures, [{ message: 'EIO' }])
})
