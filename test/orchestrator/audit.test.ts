import { join } from 'node:path'
import t from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { Store } from '../../src/core/kit/store.ts'
import { Audit, type AuditEntry } from '../../src/orchestrator/root/people/audit.ts'
import { ManualClock } from '../support/manual-clock.ts'

const FULL = 20_000

/** With so many entries of earlier, every hundredth of alice. */
function auditWith(entries: number) {
  const store = Store.open(join(t.testdir(), 'root.db'))
  const kept = store.collection<AuditEntry>('audit')
  store.transaction(() => {
    for (let number = 1; number <= entries; number++) {
      kept.put(String(number).padStart(12, '0'), entryOf(number, number % 100 === 0 ? 'alice' : 'bob'))
    }
  })
  const parts = { kept, together: (work: () => void) => store.transaction(work), clock: new ManualClock() }
  const audit = new Audit({ ...parts, log: silentLog })
  return { audit, kept, [Symbol.dispose]: () => store[Symbol.dispose]() }
}

function entryOf(number: number, user: string, status = 200): AuditEntry {
  return { number, at: number, user, from: '127.0.0.1', call: 'apply', about: 'a.b.c', status, requestId: `r${number}` }
}

const everything = { sees: () => true }
const numbersOf = (entries: readonly AuditEntry[]) => entries.map(({ number }) => number)

t.test('a look through a full audit log leaves turns of the event loop to others', async (t) => {
  using world = auditWith(FULL)
  for (const why of ['which loads it', 'which is loaded']) {
    let isOver = false
    let turns = 0
    const count = () => {
      turns++
      if (!isOver) setImmediate(count)
    }
    setImmediate(count)
    const found = await world.audit.list({ ...everything, call: 'nothing' }, 100)
    isOver = true
    t.same(found, [])
    t.ok(turns > 1, `${turns} turns, ${why}`)
  }
})

t.test('only the entries of a user are read when they are asked for', async (t) => {
  using world = auditWith(1_000)
  const audit = world.audit
  await audit.list(everything, 1)
  audit.record({ user: 'alice', from: '::1', call: 'login', status: 401, requestId: 'wrong' })
  audit.record({ user: 'bob', from: '::1', call: 'login', status: 401, requestId: 'wrong too' })
  const read: string[] = []
  const get = world.kept.get.bind(world.kept)
  world.kept.get = (key) => {
    read.push(key)
    return get(key)
  }
  t.same(numbersOf(await audit.list({ ...everything, user: 'alice' }, 3)), [1_001, 1_000, 900])
  t.equal(read.length, 4, 'those found, and a wrong login, which could be anybody’s')
  t.same(numbersOf(await audit.list({ ...everything, user: 'alice', before: 900 }, 2)), [800, 700])
  t.same(await audit.list({ ...everything, user: 'wrong logins' }, 2), [], 'no name of a user')
  t.same(numbersOf(await audit.list(everything, 2)), [1_002, 1_001], 'of everybody')
})

t.test('what is recorded while the log is being loaded counts once', async (t) => {
  using world = auditWith(FULL)
  const listed = world.audit.list({ ...everything, user: 'carol' }, 10)
  world.audit.record({ user: 'carol', from: '::1', call: 'apply', status: 200, requestId: 'meanwhile' })
  const found = numbersOf(await listed)
  t.same(found, [FULL + 1])
  t.equal(world.kept.keys().length, FULL - 200 + 1, 'room was made, for 200')
  world.audit.record({ user: 'carol', from: '::1', call: 'apply', status: 200, requestId: 'later' })
  t.same(numbersOf(await world.audit.list({ ...everything, user: 'carol' }, 10)), [FULL + 2, FULL + 1])
})

t.test('it is loaded ahead of the first entry, and a full disk does not make it be loaded again', async (t) => {
  using world = auditWith(FULL)
  await world.audit.load(AbortSignal.timeout(60_000))
  let reads = 0
  const get = world.kept.get.bind(world.kept)
  world.kept.get = (key) => {
    reads++
    return get(key)
  }
  const entry = { user: 'carol', from: '::1', call: 'apply', status: 200, requestId: 'one' }
  const put = world.kept.put.bind(world.kept)
  world.kept.put = () => {
    throw new MeshError('DISK_FULL', { path: 'root.db' })
  }
  world.audit.record(entry)
  t.equal(world.kept.keys().length, FULL, 'what room was made for it is there again')
  world.kept.put = put
  world.audit.record(entry)
  t.equal(reads, 0)
  t.same(numbersOf(await world.audit.list({ ...everything, user: 'carol' }, 10)), [FULL + 1])
  t.equal(world.kept.keys().length, FULL - 200 + 1)
  const stopped = new AbortController()
  stopped.abort()
  await t.resolves(world.audit.load(stopped.signal))
})
