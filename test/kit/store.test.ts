import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import t from 'tap'
import { isMeshError } from '../../src/core/errors.ts'
import { Store } from '../../src/core/kit/store.ts'
import '../support/no-orphans.ts'

const place = mkdtempSync(join(tmpdir(), 'hedgerow-store-'))
t.teardown(() => rmSync(place, { recursive: true, force: true }))
let files = 0
const fresh = () => join(place, `state-${++files}`, 'some.db')

function failure(open: () => unknown) {
  try {
    open()
  } catch (error) {
    if (isMeshError(error)) return error
    throw error
  }
  throw new Error('it did not fail')
}

t.test('documents are put, found, listed by prefix and deleted', async (t) => {
  using store = Store.open(fresh())
  const shops = store.collection<{ n: number }>('shops')
  const others = store.collection<{ n: number }>('others')
  shops.put('a.1', { n: 1 })
  shops.put('a.2', { n: 2 })
  shops.put('b.1', { n: 3 })
  others.put('a.1', { n: 99 })
  t.same(shops.get('a.1'), { n: 1 })
  t.equal(shops.get('c'), undefined)
  t.same(shops.list('a.'), [{ n: 1 }, { n: 2 }])
  t.same(shops.keys(), ['a.1', 'a.2', 'b.1'])
  t.equal(shops.create('a.1', { n: 7 }), false, 'a key exists once')
  t.same(shops.get('a.1'), { n: 1 })
  t.equal(shops.create('a.3', { n: 4 }), true)
  const before = shops.revision('a.1') ?? 0
  shops.put('a.1', { n: 5 })
  t.ok((shops.revision('a.1') ?? 0) > before, 'each write has a greater revision')
  t.equal(shops.delete('a.1'), true)
  t.equal(shops.delete('a.1'), false)
  t.same(others.get('a.1'), { n: 99 }, 'another collection is another place')
})

t.test('a transaction is atomic, even when nested', async (t) => {
  using store = Store.open(fresh())
  const things = store.collection<number>('things')
  t.throws(() =>
    store.transaction(() => {
      things.put('a', 1)
      store.transaction(() => things.put('b', 2))
      throw new Error('no')
    }),
  )
  t.same(things.keys(), [])
  t.equal(
    store.transaction(() => {
      things.put('a', 1)
      return 'done'
    }),
    'done',
  )
  t.same(things.keys(), ['a'])
})

t.test('documents survive a restart, and only the owner may read the file', async (t) => {
  const path = fresh()
  {
    using store = Store.open(path)
    store.collection<string>('words').put('one', 'eins')
    t.equal(statSync(path).mode & 0o777, 0o600)
    t.equal(statSync(`${path}-wal`).mode & 0o777, 0o600)
  }
  using again = Store.open(path)
  t.equal(again.collection<string>('words').get('one'), 'eins')
})

t.test('only one process may open the file', async (t) => {
  const path = fresh()
  using _first = Store.open(path)
  const error = failure(() => Store.open(path))
  t.equal(error.code, 'STATE_UNREADABLE')
  t.match(error.details, { path, remedy: /another hedgerow/i })
})

t.test('damage is reported, and nothing is overwritten', async (t) => {
  const pages = fresh()
  {
    using store = Store.open(pages)
    const many = store.collection<string>('many')
    store.transaction(() => {
      for (let i = 0; i < 500; i++) many.put(`key-${i}`, 'x'.repeat(100))
    })
  }
  const whole = readFileSync(pages)
  const rows: Array<{ why: string; content: Buffer }> = [
    { why: 'no database at all', content: Buffer.from('this is not a database, it is a letter\n'.repeat(50)) },
    {
      why: 'pages overwritten',
      content: Buffer.concat([whole.subarray(0, 8192), Buffer.alloc(8192, 0x41), whole.subarray(16384)]),
    },
    { why: 'cut short', content: whole.subarray(0, whole.length - 4096 * 3) },
  ]
  for (const { why, content } of rows) {
    writeFileSync(pages, content)
    const error = failure(() => Store.open(pages))
    t.equal(error.code, 'STATE_CORRUPT', why)
    t.match(error.details, { path: pages, remedy: /nothing was overwritten/i }, why)
    t.ok(readFileSync(pages).equals(content), `${why}: as it was`)
  }
  const foreign = fresh()
  {
    using _make = Store.open(foreign)
  }
  rmSync(foreign)
  const other = new DatabaseSync(foreign)
  other.exec('CREATE TABLE recipes (name TEXT)')
  other.close()
  t.match(
    failure(() => Store.open(foreign)),
    { code: 'STATE_CORRUPT', details: { reason: /another program/ } },
  )
})

t.test('a file of a newer version is left untouched', async (t) => {
  const path = fresh()
  {
    using _store = Store.open(path)
  }
  const database = new DatabaseSync(path)
  database.exec('PRAGMA user_version = 99')
  database.close()
  t.match(
    failure(() => Store.open(path)),
    { code: 'STATE_UNREADABLE', details: { reason: /newer/ } },
  )
})

t.test('an unwritable location is reported with a remedy', async (t) => {
  const file = join(place, 'a-file')
  writeFileSync(file, '')
  for (const path of [join(file, 'root.db'), '/sys/hedgerow/root.db']) {
    const error = failure(() => Store.open(path))
    t.equal(error.code, 'STATE_UNREADABLE')
    t.ok(path.startsWith(String(error.details['path'])), 'which place it is')
    t.match(error.details, { remedy: /--state/ })
  }
})

t.test('what was acknowledged survives kill -9, and nothing is half written', async (t) => {
  const path = fresh()
  const writer = `
    const { Store } = await import(${JSON.stringify(new URL('../../src/core/kit/store.ts', import.meta.url).href)})
    const store = Store.open(${JSON.stringify(path)})
    const pairs = store.collection('pairs')
    for (let i = 0; ; i++) {
      store.transaction(() => { pairs.put('left-' + i, i); pairs.put('right-' + i, i) })
      process.stdout.write(i + '\\n')
    }`
  for (let round = 0; round < 3; round++) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', writer], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let told = ''
    child.stdout.setEncoding('utf8')
    for await (const chunk of child.stdout) {
      told += chunk as string
      if (told.split('\n').length > 50 * (round + 1)) break
    }
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    const acknowledged = told.split('\n').slice(0, -1).map(Number)
    using store = Store.open(path)
    const pairs = store.collection<number>('pairs')
    t.ok(acknowledged.length > 0, 'the process had acknowledged writes before it was killed')
    t.ok(
      acknowledged.every((i) => pairs.get(`left-${i}`) === i),
      `all ${acknowledged.length} acknowledged are there`,
    )
    t.equal(pairs.keys('left-').length, pairs.keys('right-').length, 'both of each pair')
  }
})

t.test('a part of a transaction that fails takes back only itself', async (t) => {
  using store = Store.open(fresh())
  const things = store.collection<number>('things')
  store.transaction(() => {
    things.put('a', 1)
    t.throws(() =>
      store.transaction(() => {
        things.put('b', 2)
        throw new Error('no')
      }),
    )
    store.transaction(() => things.put('c', 3))
  })
  t.same(things.keys(), ['a', 'c'])
})

t.test('a collection that is kept in memory reads as the disk does', async (t) => {
  const path = fresh()
  {
    using store = Store.open(path)
    const kept = store.keptCollection<{ n: number; note?: string | undefined }>('things')
    t.same(kept.list(), [])
    const mine = { n: 2, note: undefined }
    kept.put('b.1', mine)
    kept.put('a.1', { n: 1 })
    kept.put('b.2', { n: 3 })
    mine.n = 99
    t.same(kept.get('b.1'), { n: 2 }, 'apart from what the caller may still change')
    t.notOk('note' in (kept.get('b.1') ?? {}), 'keys that are undefined are not there')
    t.throws(() => Object.assign(kept.get('b.1') ?? {}, { n: 5 }), 'it is not to be changed')
    t.same(kept.keys(), ['a.1', 'b.1', 'b.2'])
    t.same(kept.keys('b.'), ['b.1', 'b.2'])
    t.same(kept.list('b.'), [{ n: 2 }, { n: 3 }])
    t.equal(kept.create('a.1', { n: 7 }), false)
    t.equal(kept.create('c', { n: 4 }), true)
    t.equal(kept.delete('b.1'), true)
    t.equal(kept.delete('b.1'), false)
    t.same(kept.keys(), store.collection('things').keys())
    t.same(kept.list(), store.collection('things').list())
  }
  using store = Store.open(path)
  t.same(store.keptCollection('things').list(), [{ n: 1 }, { n: 3 }, { n: 4 }], 'and after a restart')
})

t.test('what was rolled back is not in memory either', async (t) => {
  using store = Store.open(fresh())
  const kept = store.keptCollection<number>('things')
  let told = 0
  store.onRollback(() => (told += 1))
  kept.put('a', 1)
  const fail = () => {
    kept.put('a', 2)
    kept.put('b', 3)
    throw new Error('no')
  }
  t.throws(() => store.transaction(fail))
  t.equal(kept.get('a'), 1)
  t.same(kept.keys(), ['a'])
  store.transaction(() => {
    kept.put('c', 4)
    t.throws(() => store.transaction(fail), 'a part of a transaction')
    t.same(kept.keys(), ['a', 'c'])
  })
  t.same(kept.list(), [1, 4])
  t.equal(told, 2)
})

t.test('what was written is on disk when nothing is pending', async (t) => {
  using store = Store.open(fresh())
  const things = store.collection<number>('things')
  t.equal(store.pending, undefined)
  store.transaction(() => things.get('a'))
  t.equal(store.pending, undefined, 'nothing was written')
  store.transaction(() => {
    things.put('a', 1)
    t.type(store.pending, Promise, 'what is said within the transaction follows from it')
  })
  things.put('b', 2)
  await store.pending
  t.equal(store.pending, undefined)
})

t.test('a long log is moved to its place while the store is written', async (t) => {
  const path = fresh()
  using store = Store.open(path)
  const many = store.collection<string>('many')
  const before = statSync(path).size
  for (let i = 0; statSync(path).size < before + 4_000_000; i += 1) {
    store.transaction(() => {
      for (let j = 0; j < 100; j += 1) many.put(`key-${i}-${j}`, 'x'.repeat(4_000))
    })
    await store.pending
    if (i > 500) return t.fail('nothing was moved')
  }
  t.pass('the file of the documents has grown')
})
