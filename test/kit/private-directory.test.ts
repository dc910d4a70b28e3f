import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { checkPrivateFile, openPrivateDirectory } from '../../src/core/kit/private-directory.ts'
import { Store } from '../../src/core/kit/store.ts'

const needsRoot = process.getuid?.() !== 0 && 'optional: needs root, to give files to another user'
const STRANGER = 12_345

function place(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-private-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

const refusedFor = (reason: RegExp) => ({ code: 'STATE_UNREADABLE', details: { reason, remedy: /--state/ } })

t.test('a new directory, and one of our own, is ours alone', async (t) => {
  const dir = join(place(t), 'a/b')
  openPrivateDirectory(dir)
  t.equal(statSync(dir).mode & 0o777, 0o700)
  chmodSync(dir, 0o755)
  openPrivateDirectory(dir)
  t.equal(statSync(dir).mode & 0o777, 0o700, 'its mode is put right')
})

t.test('a symbolic link is not followed', async (t) => {
  const dir = place(t)
  mkdirSync(join(dir, 'real'))
  chmodSync(join(dir, 'real'), 0o755)
  symlinkSync('real', join(dir, 'link'))
  t.throws(() => openPrivateDirectory(join(dir, 'link')), refusedFor(/symbolic link/))
  t.equal(statSync(join(dir, 'real')).mode & 0o777, 0o755, 'and what it points to is not changed')

  writeFileSync(join(dir, 'precious'), 'text', { mode: 0o644 })
  symlinkSync(join(dir, 'precious'), join(dir, 'root.db'))
  t.throws(() => Store.open(join(dir, 'root.db')), refusedFor(/symbolic link/))
  t.equal(lstatSync(join(dir, 'precious')).mode & 0o777, 0o644, 'nor is a file behind one')
})

t.test('a directory or file of another user is refused', { skip: needsRoot }, async (t) => {
  const dir = join(place(t), 'theirs')
  mkdirSync(dir)
  chownSync(dir, STRANGER, STRANGER)
  t.throws(() => openPrivateDirectory(dir), refusedFor(/another user \(uid 12345\)/))
  t.equal(statSync(dir).uid, STRANGER)
  t.throws(
    () => openPrivateDirectory(join(dir, 'below')),
    refusedFor(/another user/),
    'its owner could replace what is below',
  )

  const file = join(place(t), 'admin.json')
  writeFileSync(file, '{}')
  chownSync(file, STRANGER, STRANGER)
  t.throws(() => checkPrivateFile(file), refusedFor(/another user/))
})

t.test('a directory below one that everybody may change is refused, unless that is sticky', async (t) => {
  const dir = place(t)
  mkdirSync(join(dir, 'open/state'), { recursive: true })
  chmodSync(join(dir, 'open'), 0o777)
  t.throws(() => openPrivateDirectory(join(dir, 'open/state')), refusedFor(/everybody may write/))
  chmodSync(join(dir, 'open'), 0o1777)
  t.doesNotThrow(() => openPrivateDirectory(join(dir, 'open/state')))
})
