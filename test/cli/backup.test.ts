import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import t from 'tap'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { Store } from '../../src/core/kit/store.ts'
import { readTar, TAR_END, tarHead, tarPadding } from '../../src/core/kit/tar.ts'
import { run } from '../../src/lab/program.ts'
import { serveRoleSocket } from '../../src/roles/role-socket.ts'
import { Machines } from './program.ts'

/** Backups of stores in use, what restoring refuses, and archives that are not whole. */

/** The socket of a role that runs, as it copies its store. */
async function serving(life: Lifetime, machines: Machines, name: string, store: Store): Promise<void> {
  const parts = { version: '0.0.0', log: silentLog, facts: () => ({}), checks: () => [] }
  const copyStore = (path: string) => store.copyTo(path)
  await serveRoleSocket(life, { dir: machines.path(name, 'root'), role: 'root', ...parts, copyStore })
}

/** A state directory of root and agent as they leave it, with its store open and in use. */
function makeState(machines: Machines, name: string): Store {
  for (const folder of ['root/authority', 'agent/identity', 'agent/logs', 'agent/instances'])
    mkdirSync(machines.path(name, folder), { recursive: true, mode: 0o700 })
  const files = {
    'root/authority/authority.pem': 'key of the authority',
    'root/admin.json': '{"token":"hedgerow-admin.x"}',
    'root/events.jsonl': '{"number":1}\n',
    'root/.1234.draft': 'half written',
    'agent/identity/identity.pem': 'key of the node',
    'agent/logs/a.log': 'what an instance wrote',
    'agent/instances/a.json': '{}',
  }
  for (const [path, text] of Object.entries(files)) writeFileSync(machines.path(name, path), text, { mode: 0o600 })
  symlinkSync('/etc/passwd', machines.path(name, 'root/link'))
  const store = Store.open(machines.path(name, 'root/root.db'))
  for (let at = 0; at < 500; at++) store.collection('services').put(`service-${at}`, { at })
  return store
}

const filesOf = (folder: string) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map(({ parentPath, name }) => join(parentPath, name).slice(folder.length + 1))
    .toSorted()

t.test('a store in use is copied, and comes back as it was', async (t) => {
  await using machines = await Machines.make()
  await using life = new Lifetime()
  using store = makeState(machines, 'here')
  await serving(life, machines, 'here', store)
  const archive = machines.path('backup.tgz')
  store.transaction(() => store.collection('services').put('late', {})) // only in the write-ahead log
  const taken = await machines.run('here', 'backup', archive)
  t.match(taken, { code: 0, stdout: /backup\.tgz: root, agent; 5 files/, stderr: /private keys/ })
  t.equal(statSync(archive).mode & 0o777, 0o600)
  t.same(
    readdirSync(machines.dir).filter((name) => name.startsWith('.')),
    [],
    'nothing is left beside it',
  )
  store.collection('services').put('after', {})
  const checked = await machines.run('there', 'restore', '--check', archive)
  t.match(checked, { code: 0, stdout: /^whole: root, agent of .*, as of \d{4}-.* \(hedgerow \d/ })
  t.notOk(existsSync(machines.path('there')), 'which restores nothing')

  t.match(await machines.run('there', 'restore', archive), { code: 0, stdout: /^restored: root, agent of / })
  t.same(filesOf(machines.path('there')), [
    'agent/identity/identity.pem',
    'root/admin.json',
    'root/authority/authority.pem',
    'root/events.jsonl',
    'root/root.db',
  ])
  t.equal(readFileSync(machines.path('there/root/authority/authority.pem'), 'utf8'), 'key of the authority')
  for (const path of ['there/root', 'there/root/authority']) t.equal(statSync(machines.path(path)).mode & 0o777, 0o700)
  t.equal(statSync(machines.path('there/root/root.db')).mode & 0o777, 0o600)
  using restored = Store.open(machines.path('there/root/root.db'))
  t.equal(restored.collection('services').keys().length, 501, 'what was written before the backup, and nothing after')
})

t.test('the archive goes through a pipe, and tar reads it', async (t) => {
  await using machines = await Machines.make()
  makeState(machines, 'here')[Symbol.dispose]()
  const file = machines.path('piped.tgz')
  const { code } = await machines.pipe('here', file, 'backup', '-')
  t.equal(code, 0)
  const listed = await run(['tar', '-tzf', file], { timeoutMs: 10_000 })
  t.match(listed.stdout, /^hedgerow-backup\.json\n[^]*root\/root\.db\n/)
  t.match(await machines.run('there', 'restore', file, '-o', 'json'), { code: 0 })
})

t.test('what is there is not overwritten, and a running role not replaced', async (t) => {
  await using machines = await Machines.make()
  makeState(machines, 'here')[Symbol.dispose]()
  const archive = machines.path('backup.tgz')
  await machines.run('here', 'backup', archive)
  const before = filesOf(machines.path('here'))
  t.match(await machines.run('here', 'restore', archive), {
    code: 2,
    stderr: /there is state of root, agent in .*--force/s,
  })
  t.same(filesOf(machines.path('here')), before)

  const root = createServer((_request, response) => response.end('{}'))
  await once(root.listen(machines.path('here/root/root.sock')), 'listening')
  const refused = await machines.run('here', 'restore', '--force', archive)
  t.match(refused, { code: 2, stderr: /the root is running .*\n.*systemctl stop hedgerow-root/ })
  root.close()
  await once(root, 'close')

  const forced = await machines.run('here', 'restore', '--force', archive)
  t.match(forced, { code: 0, stderr: /What was there is in .*before-restore-/ })
  const former = readdirSync(machines.path('here')).find((name) => name.startsWith('before-restore-')) ?? ''
  t.equal(readFileSync(machines.path('here', former, 'agent/logs/a.log'), 'utf8'), 'what an instance wrote')
  t.same(
    readdirSync(machines.path('here')).filter((name) => name.startsWith('.')),
    [],
    'nothing else is left',
  )
})

t.test('what a backup that was killed has left is removed a day later', async (t) => {
  await using machines = await Machines.make()
  makeState(machines, 'here')[Symbol.dispose]()
  for (const [name, daysAgo] of [
    ['old', 2],
    ['new', 0],
  ] as const) {
    mkdirSync(machines.path(`.hedgerow-backup-${name}`))
    const at = Date.now() / 1_000 - daysAgo * 86_400
    utimesSync(machines.path(`.hedgerow-backup-${name}`), at, at)
  }
  t.match(await machines.run('here', 'backup', machines.path('backup.tgz')), { code: 0 })
  t.same(readdirSync(machines.dir).toSorted(), ['.hedgerow-backup-new', 'backup.tgz', 'here'])
})

t.test('what is no file, or not there, is told', async (t) => {
  await using machines = await Machines.make()
  const rows = [
    { args: ['backup', machines.path('x.tgz')], says: /no role has its state there/, code: 1 },
    { args: ['backup', '/dev/null'], says: /\/dev\/null is something else than a file/, code: 2 },
    { args: ['backup', machines.dir], says: /is something else than a file/, code: 2 },
    { args: ['restore', '/nowhere.tgz'], says: /cannot read \/nowhere\.tgz: no such file/, code: 2 },
    { args: ['restore'], says: /missing required argument 'file'/, code: 2 },
  ]
  for (const { args, says, code } of rows)
    t.match(await machines.run('none', ...args), { code, stderr: says }, args.join(' '))
  t.ok(statSync('/dev/null').isCharacterDevice())
})

const file = (name: string, text: string) => {
  const body = Buffer.from(text)
  return Buffer.concat([
    tarHead({ name, size: body.length, mode: 0o600, mtime: 0, user: '' }),
    body,
    tarPadding(body.length),
  ])
}

t.test('an archive that is damaged, cut short, or made by somebody else changes nothing', async (t) => {
  await using machines = await Machines.make()
  makeState(machines, 'here')[Symbol.dispose]()
  const archive = machines.path('backup.tgz')
  await machines.run('here', 'backup', archive)
  const whole = gunzipSync(readFileSync(archive))
  const flipped = (at: number) => {
    const bytes = Buffer.from(whole)
    bytes[at] = (bytes[at] ?? 0) ^ 1
    return bytes
  }
  const manifest = (facts: object) => file('hedgerow-backup.json', JSON.stringify(facts))
  const files = { '../../evil': { size: 1, sha256: 'ca978112ca1bbdcafac231b39a23dc4da786eff8147c4f72b9807785afe48bb' } }
  const compressed = readFileSync(archive)
  const rows: Record<string, Buffer> = {
    'no archive at all': Buffer.from('not an archive'),
    'an empty file': Buffer.alloc(0),
    'cut in the middle': compressed.subarray(0, compressed.length / 2),
    'cut at its end': compressed.subarray(0, -4),
    'cut between files': gzipSync(whole.subarray(0, 512 * 8)),
    'another head': gzipSync(flipped(5)),
    'another byte in a file': gzipSync(flipped(whole.indexOf('key of the authority') + 3)),
    'another byte in the database': gzipSync(flipped(whole.indexOf('SQLite format 3') + 5_000)),
    'another tar': gzipSync(Buffer.concat([file('README', 'x'), TAR_END])),
    'a later format': gzipSync(Buffer.concat([manifest({ format: 2 }), TAR_END])),
    'a name that leads out': gzipSync(
      Buffer.concat([manifest({ format: 1, roles: [], files }), file('../../evil', 'a'), TAR_END]),
    ),
    'a role that leads out': gzipSync(Buffer.concat([manifest({ format: 1, roles: ['../x'], files: {} }), TAR_END])),
  }
  for (const [why, bytes] of Object.entries(rows)) {
    writeFileSync(archive, bytes)
    const { code, stderr } = await machines.run('there', 'restore', archive)
    t.equal(code, 1, `${why}: ${stderr.split('\n')[0] ?? ''}`)
    t.match(stderr, /saved state is damaged/)
    t.same(existsSync(machines.path('there')) ? readdirSync(machines.path('there')) : [], [], 'nothing was written')
  }
})

t.test('archives go both ways between us and tar', async (t) => {
  await using machines = await Machines.make()
  mkdirSync(machines.path('a'))
  writeFileSync(machines.path('a/one'), 'x'.repeat(5_000))
  writeFileSync(machines.path('a/two'), '')
  chmodSync(machines.path('a/one'), 0o640)
  spawnSync('tar', ['--format=ustar', '-cf', machines.path('a.tar'), 'a/one', 'a/two'], { cwd: machines.dir })
  const whole = readFileSync(machines.path('a.tar'))
  for (const piece of [1, 511, 513, 100_000]) {
    const pieces = async function* () {
      for (let at = 0; at < whole.length; at += piece) yield whole.subarray(at, at + piece)
    }
    const found: unknown[] = []
    for await (const { name, size, mode, body } of readTar(pieces())) {
      let length = 0
      for await (const part of body) length += part.length
      found.push({ name, size, mode, length })
    }
    t.same(found, [
      { name: 'a/one', size: 5_000, mode: 0o640, length: 5_000 },
      { name: 'a/two', size: 0, mode: 0o644, length: 0 },
    ])
  }
  t.throws(() => tarHead({ name: 'x'.repeat(101), size: 0, mode: 0, mtime: 0, user: '' }), /too long/)
  rmSync(machines.path('a'), { recursive: true })
})
