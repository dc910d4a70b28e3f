import t from 'tap'
import { Durability } from '../../src/core/kit/durability.ts'
import '../support/no-orphans.ts'

/** A disk that is as slow as the test wants it. */
function slowDisk() {
  const waiting: PromiseWithResolvers<void>[] = []
  const begun: (() => void)[] = []
  let syncs = 0
  const durability = new Durability(() => {
    syncs += 1
    const sync = Promise.withResolvers<void>()
    waiting.push(sync)
    for (const tell of begun.splice(0)) tell()
    return sync.promise
  })
  return {
    durability,
    count: () => syncs,
    /** When the next sync has begun. */
    next: async () => {
      if (waiting.length === 0) await new Promise<void>((resolve) => begun.push(resolve))
      return waiting.shift() as PromiseWithResolvers<void>
    },
  }
}

t.test('what is written in one turn is put on disk together', async (t) => {
  const { durability, next, count } = slowDisk()
  t.equal(durability.pending, undefined, 'nothing was written')
  durability.wrote()
  durability.wrote()
  const pending = durability.pending
  t.type(pending, Promise)
  t.equal(durability.pending, pending, 'all wait for the same')
  const sync = await next()
  t.equal(durability.pending, pending)
  sync.resolve()
  await pending
  t.equal(durability.pending, undefined)
  t.equal(count(), 1)
})

t.test('what is written while the disk is at work waits for its next turn', async (t) => {
  const { durability, next, count } = slowDisk()
  durability.wrote()
  const first = durability.pending
  const sync = await next()
  durability.wrote()
  const second = durability.pending
  t.not(second, first)
  durability.wrote()
  t.equal(durability.pending, second)
  sync.resolve()
  await first
  t.equal(durability.pending, second, 'the first turn says nothing of the second')
  ;(await next()).resolve()
  await second
  t.equal(durability.pending, undefined)
  t.equal(count(), 2)
})

t.test('what cannot be put on disk is told, and tried again when somebody waits for it', async (t) => {
  const { durability, next } = slowDisk()
  durability.wrote()
  const first = durability.pending
  ;(await next()).reject(new Error('EIO'))
  await t.rejects(first as Promise<void>, { message: 'EIO' })
  const second = durability.pending
  t.not(second, first)
  ;(await next()).resolve()
  await second
  t.equal(durability.pending, undefined)
})

t.test('a failure does not keep what was written later from being tried', async (t) => {
  const { durability, next } = slowDisk()
  durability.wrote()
  const first = durability.pending as Promise<void>
  const failing = await next()
  durability.wrote()
  const second = durability.pending
  failing.reject(new Error('EIO'))
  await t.rejects(first)
  ;(await next()).resolve()
  await second
  t.equal(durability.pending, undefined)
  await durability.settled()
})
