import { execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { Store } from '../../src/core/kit/store.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import { eventually } from '../cli/program.ts'
import { LAUNCHER } from '../support/launcher.ts'
import { assignmentOf } from '../orchestrator/specs.ts'
import { nodeWith } from '../orchestrator/worker-node.ts'
import { until } from '../support/until.ts'

/* A disk with no room left: nothing that runs is disturbed, and what could not be written is written when there is room. */

const skip = process.getuid?.() !== 0 && 'needs root, to mount a small disk'

/** A file system of this size that is unmounted after the test. */
function smallDisk(t: Test, kilobytes: number): string {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-small-disk-'))
  const run = (...argv: string[]) => spawnSync(argv[0] ?? '', argv.slice(1), { encoding: 'utf8' })
  const { status, stderr } = run('mount', '-t', 'tmpfs', '-o', `size=${kilobytes}k`, 'tmpfs', dir)
  if (status !== 0) throw new Error(stderr)
  t.teardown(() => {
    run('umount', '--lazy', dir)
    rmdirSync(dir)
  })
  return dir
}

/** Writes until nothing fits any more; what this returns makes room again. */
function fill(dir: string): () => void {
  const path = join(dir, 'filler')
  for (const size of [65_536, 4_096, 512, 1]) {
    try {
      for (;;) writeFileSync(path, Buffer.alloc(size), { flag: 'a' })
    } catch {
      // this size no longer fits
    }
  }
  return () => rmSync(path)
}

const SERVER = "require('http').createServer((q, r) => r.end()).listen(process.env.PORT, process.env.HOST)"

t.setTimeout(280_000)

t.test('instances on a node whose state disk is full', { skip }, async (t) => {
  const disk = smallDisk(t, 2_048)
  const dir = join(disk, 'state')
  await using here = await nodeWith({}, dir)
  const { worker } = here
  const [one, other] = [0, 1].map((ordinal) =>
    assignmentOf({ cmd: [process.execPath, '-e', SERVER], port: 80 }, ordinal),
  )
  if (one === undefined || other === undefined) throw new Error('no work')
  worker.assign(one)
  const { pid = 0 } = await here.becomes('running')
  t.equal(worker.stateProblem, undefined)

  const makeRoom = fill(disk)
  process.kill(-pid, 'SIGKILL')
  await here.becomes('starting')
  const again = await here.becomes('running')
  t.not(again.pid, pid, 'a killed instance is started again')
  t.match(worker.stateProblem, { code: 'DISK_FULL', details: { path: join(dir, 'run') } })
  worker.assign(other)
  t.equal((await here.becomes('running')).instance, other.instance, 'and a new one starts')

  makeRoom()
  await until(() => worker.stateProblem === undefined)
  const records = readdirSync(join(dir, 'run')).filter((name) => name.endsWith('.json'))
  t.equal(records.length, 2, 'both are on disk once there is room')
  for (const name of records) t.match(JSON.parse(readFileSync(join(dir, 'run', name), 'utf8')), { state: 'running' })
})

t.test('a store on a full disk says so, and goes on when there is room', { skip }, async (t) => {
  const dir = smallDisk(t, 512)
  const store = Store.open(join(dir, 'root.db'))
  const things = store.collection<string>('things')
  things.put('before', 'x')
  const makeRoom = fill(dir)
  t.throws(
    () => {
      for (let i = 0; i < 1_000; i += 1) things.put(`thing-${i}`, 'x'.repeat(4_096))
    },
    { code: 'DISK_FULL', details: { path: join(dir, 'root.db') } },
  )
  t.equal(things.get('before'), 'x', 'what was there can be read')
  makeRoom()
  things.put('after', 'y')
  t.equal(things.get('after'), 'y')
  store.close()

  const makeRoomAgain = fill(dir)
  using again = Store.open(join(dir, 'root.db'))
  t.equal(again.collection('things').get('after'), 'y', 'it can be opened')
  t.throws(() => Store.open(join(dir, 'root.db')), { code: 'STATE_UNREADABLE' }, 'by one process')
  makeRoomAgain()
  again.collection('things').put('more', 'z')
  await again.pending
  t.equal(again.collection('things').get('more'), 'z')
})

t.test(
  '`up` whose state and log are on a full disk: it goes on, starts again, and writes when there is room',
  {
    skip,
    timeout: 180_000,
  },
  async (t) => {
    const disk = smallDisk(t, 16_384)
    const state = join(disk, 'state')
    mkdirSync(state, { mode: 0o700 })
    const base = await freeBase(23_400)
    const run = (...argv: string[]) =>
      promisify(execFile)(process.execPath, [LAUNCHER, '--state', state, '-o', 'json', ...argv])
    const up = () => {
      const log = openSync(join(disk, 'log'), 'a')
      const where = ['--upstream', '127.0.0.1:9', '--listen', `127.0.0.1:${base}`]
      const child = spawn(process.execPath, [LAUNCHER, '--state', state, 'up', '--name', 'n0', ...where], {
        stdio: ['ignore', 'ignore', log],
      })
      closeSync(log)
      t.teardown(() => child.kill('SIGKILL'))
      return child
    }
    const agent = async () => {
      const { stdout } = await run('status')
      return (JSON.parse(stdout) as { agent?: { controlLink?: string } }).agent
    }
    const serves = (link: string) => () =>
      agent().then(
        (report) => report?.controlLink === link,
        () => false,
      )

    const first = up()
    await eventually(serves('up'), 'it serves', 60_000).catch(() =>
      t.fail(
        `it does not serve, exit code ${first.exitCode}: ${readFileSync(join(disk, 'log'), 'utf8').slice(-2_000)}`,
      ),
    )
    const roomAgain = fill(disk)
    const refused = await run('token', 'create').catch((error: unknown) => error)
    t.match(refused, { stderr: /DISK_FULL/ }, 'what must be written is refused, with the reason')
    t.ok(await serves('up')(), 'all else goes on')
    first.kill('SIGTERM')
    t.same(await once(first, 'exit'), [0, null])

    const second = up()
    const starts = () =>
      agent().then(
        (report) => report?.controlLink !== undefined,
        () => false,
      )
    await eventually(starts, 'it starts on the full disk', 60_000)
    t.equal(second.exitCode, null)
    roomAgain()
    await eventually(serves('up'), 'and is whole when there is room', 60_000)
    second.kill('SIGTERM')
    t.same(await once(second, 'exit'), [0, null])
    t.match(readFileSync(join(disk, 'log'), 'utf8'), /"told to end"/, 'lines come again')
  },
)
