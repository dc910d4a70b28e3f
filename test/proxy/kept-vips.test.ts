import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { FORGET_MS } from '../../proxy/intercept/asked-vips.ts'
import { HELD_VIPS_FILE, KeptVips } from '../../src/agent/kept-vips.ts'
import { REWRITE_MS, unwrittenFiles } from '../../src/core/kit/kept-file.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { InterestKey } from '../../src/core/model/ids.ts'
import { Table } from '../../src/core/table/table.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { entryOf } from '../table/world.ts'
import { keptLog } from './world.ts'
import { until } from '../support/until.ts'

/* The VIPs that programs may hold, over restarts of the agent. */

const CART = 'shop.acme.cart.prod'
const VIP = 0xe8000
const HOUR = 3_600_000
const DAY = 24 * HOUR

/** An agent that starts in this directory, with these services in its saved table. */
function agentIn(t: Test, dir: string, services: readonly string[] = []) {
  const life = new Lifetime()
  const clock = new ManualClock()
  const log = keptLog()
  const table = new Table({ clock })
  for (const [i, id] of services.entries()) {
    const key = id.slice(0, id.lastIndexOf('.'))
    table.expect(key)
    table.learn(key, { seq: 1, entries: [entryOf(id, { vip: VIP + i * 8 })] })
  }
  const wished: InterestKey[] = []
  const interests = { wish: (keys: Iterable<InterestKey>) => void wished.push(...keys) }
  const kept = KeptVips.open({ life, dir, clock, log }, { table, interests })
  t.teardown(() => life.close())
  return { kept, clock, log, wished, asked: kept.asked, stop: () => life.close() }
}

function fileIn(dir: string): { held: { vip: number; idleMs: number }[] } {
  return JSON.parse(readFileSync(join(dir, HELD_VIPS_FILE), 'utf8')) as never
}

/** The clock stands still while the disk works. */
async function written(dir: string, holds: (held: { vip: number }[]) => boolean): Promise<void> {
  for (;;) {
    try {
      if (holds(fileIn(dir).held)) return
    } catch {
      // not there yet
    }
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

t.test(
  'what was asked for is written at once, and is held after a restart; ages count only while an agent runs',
  async (t) => {
    const dir = t.testdir()
    const first = agentIn(t, dir)
    await first.clock.advance(0)
    await written(dir, (held) => held.length === 0)
    await first.clock.advance(10_000)
    first.asked.note(VIP, CART)
    await first.clock.advance(0)
    await written(dir, ([cart]) => cart?.vip === VIP)
    t.equal(statSync(join(dir, HELD_VIPS_FILE)).mode & 0o777, 0o600)
    await first.clock.advance(1)
    first.asked.note(VIP + 1, CART)
    first.asked.note(VIP + 2, CART)
    await first.clock.advance(498)
    t.equal(fileIn(dir).held.length, 1, 'a burst is gathered')
    await first.clock.advance(1)
    await written(dir, (held) => held.length === 3)
    await first.clock.advance(HOUR)
    await first.stop()
    t.match(fileIn(dir).held[0], { vip: VIP, idleMs: HOUR + 500 })

    const second = agentIn(t, dir, [CART])
    t.ok(second.asked.has(VIP, CART))
    t.same(second.asked.idle(HOUR + 500), [VIP], 'as old as it was')
    t.equal(second.asked.size, 3)
    t.same(second.wished, [], 'the table knows the service')
  },
)

t.test('without the saved table, the cluster is asked for what was in use', async (t) => {
  const dir = t.testdir()
  const held = [
    { service: CART, vip: VIP, idleMs: HOUR },
    { service: 'shop.acme.old.prod', vip: VIP + 9, idleMs: 2 * DAY },
  ]
  writeFileSync(join(dir, HELD_VIPS_FILE), JSON.stringify({ format: 1, held }))
  t.same(agentIn(t, dir).wished, ['shop.acme.cart'])
})

t.test(
  'no list, or a damaged one: every VIP of the saved table counts for a day, those of all instances first',
  async (t) => {
    const damages = [undefined, '', '{"format":1,"held":[{"ser', '{"format":1,"held":[{"service":"x","vip":-1}]}', '[]']
    for (const damage of damages) {
      const dir = t.testdir()
      if (damage !== undefined) writeFileSync(join(dir, HELD_VIPS_FILE), damage)
      const { asked, clock, log, stop } = agentIn(t, dir, [CART, 'shop.acme.stock.prod'])
      t.equal(asked.size, 16, damage ?? 'no list')
      t.same(
        asked
          .snapshot()
          .map(({ vip }) => vip - VIP)
          .slice(0, 8),
        [0, 1, 2, 3, 8, 9, 10, 11],
      )
      t.equal(log.lines.length, damage === undefined ? 0 : 1, 'a damaged one is told')
      await clock.advance(DAY)
      t.equal(asked.idle(FORGET_MS).length, 16)
      await stop()
      t.equal(fileIn(dir).held.length, 16, 'and is written anew')
    }
  },
)

t.test('after a hand-over only the successor writes; a lost one gives it back', async (t) => {
  const dir = t.testdir()
  const { kept, asked, clock } = agentIn(t, dir)
  asked.note(VIP, CART)
  await kept.release()
  t.equal(fileIn(dir).held.length, 1, 'what was not written yet')
  asked.note(VIP + 1, CART)
  await clock.advance(10_000)
  t.equal(fileIn(dir).held.length, 1)
  kept.reclaim()
  await clock.advance(500)
  await written(dir, (held) => held.length === 2)
})

const skip = process.getuid?.() !== 0 && 'optional: needs root, to mount a small disk'

t.test('a full disk: what is held counts, and is written when there is room', { skip }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-vips-'))
  const run = (...argv: string[]) => {
    const { status, stderr } = spawnSync(argv[0] ?? '', argv.slice(1), { encoding: 'utf8' })
    if (status !== 0) throw new Error(stderr)
  }
  run('mount', '-t', 'tmpfs', '-o', 'size=64k,mode=0700', 'tmpfs', dir)
  t.teardown(() => {
    run('umount', '--lazy', dir)
    rmSync(dir, { recursive: true })
  })
  const filler = join(dir, 'filler')
  spawnSync('sh', ['-c', `cat /dev/zero > ${filler}`])
  const { asked, clock, log } = agentIn(t, dir)
  asked.note(VIP, CART)
  await clock.advance(0)
  await until(() => unwrittenFiles.has(join(dir, HELD_VIPS_FILE)))
  for (let i = 1; i <= 3; i += 1) {
    asked.note(VIP + i, CART)
    await clock.advance(REWRITE_MS)
  }
  t.equal(asked.size, 4)
  t.equal(log.lines.length, 1, 'said once')
  rmSync(filler)
  while (unwrittenFiles.size > 0) {
    await clock.advance(REWRITE_MS)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  await written(dir, (held) => held.length === 4)
})
