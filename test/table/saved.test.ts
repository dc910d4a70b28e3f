import { mkdir, readFile, readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { silentLog, type Log } from '../../src/core/kit/log.ts'
import { SavedTable } from '../../src/core/table/saved.ts'
import { readSaved, writeSaved } from '../../src/core/table/saved-file.ts'
import { Table, type Snapshot } from '../../src/core/table/table.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { entryOf, nameOf } from './world.ts'

const CART = 'shop.acme.cart.prod'
const KEY = 'shop.acme.cart'
const SNAPSHOT: Snapshot = {
  epoch: 'one',
  seq: 7,
  keys: [{ key: KEY, usedAt: 1_700_000_000_000 }],
  entries: [entryOf(CART, { nodes: ['edge/n1', 'edge/n2'] })],
}

function watched(): { log: Log; warnings: string[] } {
  const warnings: string[] = []
  const log: Log = { ...silentLog, warn: (sentence) => warnings.push(sentence), child: () => log }
  return { log, warnings }
}

t.test('a saved table is read back, is private to its owner and leaves no draft', async (t) => {
  const path = join(t.testdir(), 'table.json')
  t.equal(await readSaved(path), undefined, 'none yet')
  await writeSaved(path, SNAPSHOT)
  t.same(await readSaved(path), SNAPSHOT)
  t.equal((await stat(path)).mode & 0o777, 0o600)
  await writeSaved(path, { ...SNAPSHOT, seq: 8 })
  t.equal((await readSaved(path))?.seq, 8)
  t.same(await readdir(join(path, '..')), ['table.json'])
})

t.test('a draft that a crash left, readable by all, does no harm', async (t) => {
  const path = join(t.testdir({ 'table.json.draft': '{"half' }), 'table.json')
  await writeSaved(path, SNAPSHOT)
  t.equal((await stat(path)).mode & 0o777, 0o600)
  t.same(await readSaved(path), SNAPSHOT)
})

t.test('damage is reported with its position, and the file is left as it was', async (t) => {
  const good = { format: 1, table: SNAPSHOT }
  const [entry] = SNAPSHOT.entries
  const rows = [
    { why: 'empty', text: '', reason: 'not JSON' },
    { why: 'cut off', text: JSON.stringify(good).slice(0, -20), reason: 'not JSON' },
    { why: 'zeros after a power cut', text: '\0'.repeat(100), reason: 'not JSON' },
    { why: 'not an object', text: '[]', reason: '/' },
    { why: 'another format', text: JSON.stringify({ ...good, format: 2 }), reason: '/format' },
    {
      why: 'a missing field',
      text: JSON.stringify({ format: 1, table: { ...SNAPSHOT, seq: undefined } }),
      reason: '/table',
    },
    {
      why: 'a wrong type',
      text: JSON.stringify({ format: 1, table: { ...SNAPSHOT, keys: [1] } }),
      reason: '/table/keys/0',
    },
    {
      why: 'a VIP out of range',
      text: JSON.stringify({
        format: 1,
        table: { ...SNAPSHOT, entries: [{ ...entry, service: { ...entry?.service, vips: { 'any.rr': 0x100000 } } }] },
      }),
      reason: '/table/entries/0/service/vips',
    },
  ]
  const dir = t.testdir()
  for (const { why, text, reason } of rows) {
    const path = join(dir, 'table.json')
    await writeFile(path, text)
    const error = await readSaved(path).then(
      () => undefined,
      (error: unknown) => error,
    )
    t.match(error, { code: 'STATE_CORRUPT', details: { path } }, why)
    const told = (error as { details: { reason: string } }).details.reason
    t.ok(told.startsWith(reason), `${why}: ${told}`)
    t.equal(await readFile(path, 'utf8'), text, `${why}: untouched`)
  }
})

t.test('a damaged copy is renamed; the agent starts without it and logs it', async (t) => {
  const dir = t.testdir({ 'table.json': '{"half' })
  const path = join(dir, 'table.json')
  const table = new Table()
  const { log, warnings } = watched()
  const saved = await SavedTable.start({ table, path, clock: new ManualClock() }, log)
  t.same(table.counts, { services: 0, instances: 0, keys: 0 })
  t.equal(warnings.length, 1)
  await saved.close()
  const [renamed, ...more] = await readdir(dir)
  t.same(more, [])
  t.match(renamed, /^table\.json\.damaged-2023-/)
  t.equal(await readFile(join(dir, renamed as string), 'utf8'), '{"half')
})

t.test('an unreadable or unwritable location is reported as an error of the machine', async (t) => {
  const dir = t.testdir({ file: '' })
  await t.rejects(readSaved(dir), { code: 'STATE_CORRUPT', details: { path: dir } }, 'a directory')
  await t.rejects(writeSaved(join(dir, 'file', 'table.json'), SNAPSHOT), { code: 'STATE_UNREADABLE' })
})

t.test('a node that restarts without a cluster still has its saved table', async (t) => {
  const path = join(t.testdir(), 'table.json')
  const clock = new ManualClock()
  const before = new Table({ clock })
  await using saved = await SavedTable.start({ table: before, path, clock }, silentLog)
  before.expect(KEY)
  before.learn(KEY, { seq: 3, entries: [entryOf(CART)] })
  before.resume({ epoch: 'one', seq: 4, full: false, changes: [] }, [])
  await saved.close() // writes what is outstanding
  const after = new Table({ clock })
  await using _ = await SavedTable.start({ table: after, path, clock }, silentLog)
  t.match(after.find(nameOf(`${CART}.any.closest`)), { kind: 'target' })
  t.same(after.point(), { epoch: 'one', seq: 4, keys: [KEY] })
})

t.test('a burst is written once, after it has settled', async (t) => {
  const path = join(t.testdir(), 'table.json')
  const clock = new ManualClock()
  const table = new Table({ clock })
  await using saved = await SavedTable.start({ table, path, clock }, silentLog)
  table.expect(KEY)
  for (let version = 1; version <= 50; version++) {
    table.apply({ seq: version, kind: 'service', key: KEY, entry: entryOf(CART, { version }) })
  }
  table.learn(KEY, { seq: 1, entries: [] })
  t.equal(clock.sleepers, 1)
  t.equal(await readSaved(path), undefined, 'not yet')
  await clock.advance(500)
  await saved.close()
  t.equal((await readSaved(path))?.entries[0]?.version, 50)
})

t.test('a full disk stops nothing, and the next change writes everything', async (t) => {
  const dir = t.testdir()
  const path = join(dir, 'table.json')
  const clock = new ManualClock()
  const table = new Table({ clock })
  const { log, warnings } = watched()
  const saved = await SavedTable.start({ table, path, clock }, log)
  await mkdir(path) // a rename onto it must fail, also for root
  table.expect(KEY)
  table.learn(KEY, { seq: 1, entries: [entryOf(CART)] })
  await clock.advance(500)
  await saved.close()
  t.ok(warnings.length >= 1, 'it was said')
  t.same(await readdir(dir), ['table.json'], 'no draft is left')
})
