import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { KeptVips } from '../../src/agent/kept-vips.ts'
import { ProxyAccess } from '../../src/agent/proxy-access.ts'
import { rememberedServers } from '../../src/agent/remembered-servers.ts'
import { HeldIdentity } from '../../src/core/identity/held.ts'
import { KeptFile, REWRITE_MS, unwrittenFiles } from '../../src/core/kit/kept-file.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { silentLog, type Log } from '../../src/core/kit/log.ts'
import { readPlainFile } from '../../src/core/kit/plain-file.ts'
import { Store } from '../../src/core/kit/store.ts'
import { SavedTable } from '../../src/core/table/saved.ts'
import { Table } from '../../src/core/table/table.ts'
import { Records } from '../../src/orchestrator/worker/records.ts'
import { systemKernel } from '../../proxy/kernel/kernel.ts'
import { filesCheck } from '../../src/roles/role-checks.ts'
import { entryOf } from '../table/world.ts'
import { ManualClock } from '../support/manual-clock.ts'

/*
 * Whatever stands in the place of a file of ours, nothing waits for it and nothing ends: what is read counts as absent, what is
 * written goes there or is kept in memory until it can be.
 */

const isRoot = process.getuid?.() === 0
const skip = !isRoot && 'needs root, to mount a small disk'

/** What may stand in the place of a file that an earlier process left. */
const DAMAGE: Readonly<Record<string, (path: string) => void>> = {
  'nothing in it': (path) => writeFileSync(path, ''),
  'half of a JSON text': (path) => writeFileSync(path, '{"secret":"ab'),
  'zeros after a power cut': (path) => writeFileSync(path, Buffer.alloc(4_096)),
  'JSON of another form': (path) => writeFileSync(path, '{"a":[1]}'),
  'ports that do not exist': (path) =>
    writeFileSync(path, JSON.stringify({ secret: 'ab'.repeat(32), socksPort: 65_536, httpPort: -1 })),
  'a FIFO that nobody writes to': (path) => void execFileSync('mkfifo', [path]),
  'a directory': (path) => mkdirSync(path),
}

function logged(): { log: Log; lines: string[] } {
  const lines: string[] = []
  const say = (sentence: string) => void lines.push(sentence)
  const log: Log = { ...silentLog, warn: say, info: say, error: say, child: () => log }
  return { log, lines }
}

/** Each file that an agent reads at its start, as the agent reads it; what comes back must be what a missing file gives. */
const READERS: Readonly<Record<string, (path: string, log: Log) => unknown>> = {
  'proxies.json': (path, log) => ProxyAccess.open(new KeptFile(path, log)).socksPort,
  'upstreams.json': (path, log) => [...rememberedServers(new KeptFile(path, log)).load()],
  'vips.json': async (path, log) => {
    await using life = new Lifetime()
    const table = new Table()
    const interests = { wish: () => undefined }
    return KeptVips.open({ life, dir: dirname(path), clock: systemClock, log }, { table, interests }).asked.size
  },
  'table.json': async (path, log) => {
    await using _saved = await SavedTable.start({ table: new Table(), path }, log)
    return 'started'
  },
  'web.json': async (path, log) => (await new Records(dirname(path), log).all()).length,
}

for (const [name, read] of Object.entries(READERS)) {
  t.test(`${name}: damaged or no file at all`, async (t) => {
    const absent = await read(join(t.testdir(), name), silentLog)
    for (const [why, damage] of Object.entries(DAMAGE)) {
      const path = join(t.testdir(), name)
      damage(path)
      t.same(await read(path, silentLog), absent, why)
    }
  })
}

t.test('a kept file replaces a FIFO, and waits where a directory has its name', async (t) => {
  const path = join(t.testdir(), 'relays.json')
  const clock = new ManualClock()
  const { log, lines } = logged()
  await using file = new KeptFile(path, log, clock)
  execFileSync('mkfifo', [path])
  await file.put('["one"]')
  t.equal(readFileSync(path, 'utf8'), '["one"]')
  rmSync(path)
  mkdirSync(path)
  await file.put('["two"]')
  await file.put('["three"]')
  t.same(lines, ['a file of the state directory cannot be written; its content is kept in memory'], 'said once')
  t.match(filesCheck(), { ok: false, finding: new RegExp(path) })
  t.equal(readdirSync(dirname(path)).length, 1, 'no draft is left')
  rmSync(path, { recursive: true })
  await clock.advance(REWRITE_MS)
  await file.put('["three"]')
  t.equal(readFileSync(path, 'utf8'), '["three"]')
  t.equal(lines[1], 'a file of the state directory is written again')
  t.equal(filesCheck().ok, true)
})

t.test('a directory that is gone, and comes back', async (t) => {
  const dir = join(t.testdir(), 'state')
  const clock = new ManualClock()
  await using file = new KeptFile(join(dir, 'prefix'), silentLog, clock)
  await file.put('127.16.0.0/12')
  t.ok(unwrittenFiles.has(file.path), 'what could not be written is listed')
  mkdirSync(dir)
  await clock.advance(REWRITE_MS)
  await file.put('127.16.0.0/12')
  t.equal(readPlainFile(file.path), '127.16.0.0/12')
  t.notOk(unwrittenFiles.has(file.path), 'what has been written is no longer listed')
})

t.test('the identity: damage is named, and nothing is overwritten', async (t) => {
  for (const [why, damage] of Object.entries(DAMAGE)) {
    const dir = t.testdir()
    chmodSync(dir, 0o700)
    damage(join(dir, 'identity.pem'))
    const code = why.startsWith('a ') ? 'STATE_UNREADABLE' : 'STATE_CORRUPT'
    await t.rejects(HeldIdentity.open(dir), { code, details: { path: join(dir, 'identity.pem') } }, why)
    t.same(readdirSync(dir), ['identity.pem'], 'it stays for whoever must rescue it')
  }
})

t.test('a store: damage is named, and nothing is overwritten', (t) => {
  for (const [why, damage] of Object.entries(DAMAGE)) {
    if (why === 'nothing in it') continue // that is a new store
    const dir = t.testdir()
    chmodSync(dir, 0o700)
    const path = join(dir, 'root.db')
    damage(path)
    const code = why.startsWith('a ') ? 'STATE_UNREADABLE' : 'STATE_CORRUPT'
    t.throws(() => Store.open(path), { code, details: { path } }, why)
  }
  t.end()
})

t.test('a store whose pages are garbage is named', (t) => {
  const dir = t.testdir()
  chmodSync(dir, 0o700)
  const path = join(dir, 'root.db')
  const store = Store.open(path)
  const things = store.collection<string>('things')
  for (let i = 0; i < 200; i += 1) things.put(`t${i}`, 'x'.repeat(500))
  store.close()
  const bytes = readFileSync(path)
  bytes.fill(0x5a, 8_192, bytes.length)
  writeFileSync(path, bytes)
  t.throws(() => Store.open(path), { code: 'STATE_CORRUPT', details: { path } })
  t.same(readFileSync(path), bytes, 'nothing was overwritten')
  t.end()
})

t.test('the file of kernel rules: a FIFO in its place holds up nothing', async (t) => {
  const dir = t.testdir()
  execFileSync('mkfifo', [join(dir, 'fast-path.nft')])
  await t.rejects(systemKernel(dir).apply('not a rule'), Error, 'nft has read it, or is missing')
  t.same(readdirSync(dir), [])
})

/** A file system of this test: full or read-only at will. */
function disk(t: Test, kilobytes: number) {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-disk-'))
  const run = (...argv: string[]) => {
    const { status, stderr } = spawnSync(argv[0] ?? '', argv.slice(1), { encoding: 'utf8' })
    if (status !== 0) throw new Error(stderr)
  }
  run('mount', '-t', 'tmpfs', '-o', `size=${kilobytes}k,mode=0700`, 'tmpfs', dir)
  t.teardown(() => {
    run('umount', '--lazy', dir)
    rmSync(dir, { recursive: true })
  })
  return { dir, remount: (how: 'ro' | 'rw') => run('mount', '-o', `remount,${how}`, dir) }
}

/** The time until the next try, and real time for the disk. */
async function pass(clock: ManualClock): Promise<void> {
  await clock.advance(REWRITE_MS)
  await new Promise((resolve) => setTimeout(resolve, 20))
}

t.test('a disk that turns read-only, as a worn SD card does, and comes back', { skip }, async (t) => {
  const { dir, remount } = disk(t, 1_024)
  const clock = new ManualClock()
  const table = new Table({ clock })
  const path = join(dir, 'table.json')
  const { log, lines } = logged()
  await using file = new KeptFile(join(dir, 'proxies.json'), log, clock)
  await using _saved = await SavedTable.start({ table, path, clock }, log)
  remount('ro')
  table.expect('shop.acme.cart')
  table.learn('shop.acme.cart', { seq: 1, entries: [entryOf('shop.acme.cart.prod')] })
  await file.put('{}')
  while (unwrittenFiles.size < 2) await pass(clock)
  for (let i = 0; i < 3; i += 1) await pass(clock)
  t.same(lines.toSorted(), [
    'a file of the state directory cannot be written; its content is kept in memory',
    'the table could not be saved',
  ]) // each once, however often it was tried
  t.equal(unwrittenFiles.size, 2)
  remount('rw')
  while (unwrittenFiles.size > 0) await pass(clock)
  t.same(readdirSync(dir).toSorted(), ['proxies.json', 'table.json'], 'both are there once the disk takes them')
})
