import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import t from 'tap'

/*
 * Where the launcher of the packaged program keeps compiled code. V8 runs that unseen, so a folder that others may write is not used.
 */
const USER = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {}

/** A package whose program says where compiled code is kept, and a folder of its user. */
const dir = mkdtempSync(join(tmpdir(), 'hedgerow-launcher-'))
chmodSync(dir, 0o755)
mkdirSync(join(dir, 'src'))
copyFileSync(resolve(import.meta.dirname, '../src/hedgerow.js'), join(dir, 'src/hedgerow.js'))
writeFileSync(
  join(dir, 'src/main.js'),
  "import module from 'node:module'; process.stdout.write(module.getCompileCacheDir() ?? 'nowhere')",
)
writeFileSync(join(dir, 'package.json'), '{"type":"module"}')
const home = join(dir, 'home')
mkdirSync(home)
if (USER.uid !== undefined) chownSync(home, USER.uid, USER.gid)
t.teardown(() => rmSync(dir, { recursive: true }))

const keptIn = (env: Record<string, string>) =>
  execFileSync(process.execPath, [join(dir, 'src/hedgerow.js')], { env, encoding: 'utf8', ...USER })

t.test('compiled code is kept in the cache of the user', (t) => {
  t.match(keptIn({ HOME: home }), join(home, '.cache/hedgerow'))
  t.match(keptIn({ HOME: '/nowhere', XDG_CACHE_HOME: join(home, 'xdg') }), join(home, 'xdg/hedgerow'))
  t.end()
})

t.test('and nowhere where others can write, or nobody can', (t) => {
  t.equal(keptIn({}), 'nowhere')
  t.equal(keptIn({ HOME: '/proc' }), 'nowhere')
  chmodSync(join(home, '.cache/hedgerow'), 0o770)
  t.equal(keptIn({ HOME: home }), 'nowhere')
  t.end()
})
