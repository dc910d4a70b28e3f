import { spawn } from 'node:child_process'
import { chownSync, linkSync, mkdirSync, mkdtempSync, rmSync, copyFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import t from 'tap'
import { run } from '../../src/lab/program.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import { noOtherUsers } from '../support/other-users.ts'
import { LAUNCHER } from '../support/launcher.ts'

/*
 * Where nothing separates instances from the agent, this is said.
 */

t.setTimeout(280_000)
const SEPARATION = resolve(import.meta.dirname, '../../src/orchestrator/worker/separation.ts')
const isRoot = process.getuid?.() === 0

t.test(
  'without root the start says that there is no boundary, and so does `check`',
  {
    skip: isRoot && noOtherUsers,
  },
  async (t) => {
    const dir = mkdtempSync('/tmp/hedgerow-boundary-')
    t.teardown(() => rmSync(dir, { recursive: true, force: true }))
    if (isRoot) chownSync(dir, 65_534, 65_534)
    const user = isRoot ? { uid: 65_534, gid: 65_534 } : {}
    const env = { ...process.env, HEDGEROW_STATE: dir, HOME: dir }
    const where = ['--listen', `127.0.0.1:${await freeBase(19_900)}`, '--upstream', '127.0.0.1:9']
    const up = spawn(process.execPath, [LAUNCHER, 'up', '--name', 'n0', ...where], {
      env,
      cwd: '/',
      stdio: ['ignore', 'pipe', 'pipe'],
      ...user,
    })
    t.teardown(() => up.kill('SIGKILL'))
    let log = ''
    up.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()))
    await new Promise<void>((ready) => {
      let said = ''
      up.stdout.on('data', (chunk: Buffer) => {
        said += chunk.toString()
        if (/^tunnel /m.test(said)) ready()
      })
      up.once('exit', () => ready())
    })
    const lines = log.split('\n').filter((line) => line.includes('instances run as the user of the agent'))
    t.equal(lines.length, 1, 'one line of the log')
    t.match(JSON.parse(lines[0] ?? '{}'), { level: 'warn', reason: 'the agent does not run as root' })
    const { stdout } = await run([process.execPath, LAUNCHER, '--state', dir, 'check'], { env, timeoutMs: 30_000 })
    t.match(
      stdout,
      /^ok +instances: instances run as the user of the agent, .*: the agent does not run as root; no control groups/m,
    )
  },
)

/** What `auto` makes of a root that is no whole root. */
async function reasonOf(argv: readonly string[]): Promise<string> {
  const text = `import { Separation } from ${JSON.stringify(SEPARATION)}
    console.log(Separation.open({ setting: 'auto', uids: '60100-60163', dir: '/tmp' }).reason ?? 'users')`
  const { stdout, stderr } = await run([...argv, '--input-type=module', '-e', text], { timeoutMs: 30_000 })
  return stdout.trim() || stderr
}

t.test(
  'as root too: without the right to change users, and where its Node is closed to them',
  { skip: noOtherUsers },
  async (t) => {
    const node = process.execPath
    t.match(await reasonOf(['setpriv', '--bounding-set=-setuid', node]), /may not change users \(it lacks CAP_SETUID/)
    t.match(
      await reasonOf(['unshare', '--user', '--map-root-user', node]),
      /uids 60100 to 60163 do not exist in this container/,
    )
    const closed = join(mkdtempSync(join(dirname(node), 'closed-')), 'bin')
    t.teardown(() => rmSync(dirname(closed), { recursive: true, force: true }))
    mkdirSync(closed)
    linkOrCopy(node, join(closed, 'node'))
    t.match(await reasonOf([join(closed, 'node')]), `Node lies in ${dirname(closed)}, which only its owner may enter`)
  },
)

function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to)
  } catch {
    copyFileSync(from, to)
  }
}
