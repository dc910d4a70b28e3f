import t from 'tap'
import { lacking } from '../../src/lab/namespace.ts'
import { type Fault, FAULTS } from '../bench/failure/faults.ts'
import { noteOf } from '../bench/failure/judge.ts'
import { strike } from '../bench/failure/run.ts'
import { FailureWorld } from '../bench/failure/world.ts'
import '../support/no-orphans.ts'
import { LAUNCHER } from '../support/launcher.ts'

/*
 * `npm run bench:failure` at small size. Only counts are asserted: a request may take as long as it takes. Updates and moves are in
 * update.test.ts and moves.test.ts, with more of what is said; clocks and disks in test/faults.
 */

const NAMES = [
  'instance killed',
  'node process killed',
  'both killed, client’s agent restarted',
  'mass delete of other services',
]
const SIZES = { awayMs: 1_500, services: 50, pace: { everyMs: 25, limitMs: 30_000 }, marginMs: 500 }

t.setTimeout(280_000)
const skip = await lacking()
if (skip !== undefined) t.test('how many requests fail', { skip }, async () => undefined)
else {
  const { signal } = new AbortController()
  const say = (line: string) => t.comment(line)
  const hedgerow = [process.execPath, LAUNCHER]
  const world = await FailureWorld.start({ hedgerow, say, signal })
  t.teardown(() => world[Symbol.asyncDispose]())
  for (const fault of NAMES.map(faultCalled)) {
    t.test(`${fault.fault}: ${fault.goal}`, async (t) => {
      const band = await strike(world, fault, { ...SIZES, say, signal })
      t.ok(band.row.ok, `${JSON.stringify(band.row)}: ${noteOf(band)}`)
      t.ok(band.row.requests > 0, 'the client has called')
    })
  }
}

function faultCalled(name: string): Fault {
  const found = FAULTS.find(({ fault }) => fault === name)
  if (found === undefined) throw new Error(`no fault is called ${name}`)
  return found
}
