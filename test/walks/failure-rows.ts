import { resolve } from 'node:path'
import t from 'tap'
import { lacking } from '../../src/lab/namespace.ts'
import { type Fault, FAULTS } from '../bench/failure/faults.ts'
import { noteOf } from '../bench/failure/judge.ts'
import { strike } from '../bench/failure/run.ts'
import { FailureWorld } from '../bench/failure/world.ts'
import '../support/no-orphans.ts'

/* `npm run bench:failure` at small size. Only counts are asserted: a request may take as long as it takes. */

const SIZES = { awayMs: 1_500, services: 50, pace: { everyMs: 25, limitMs: 30_000 }, marginMs: 500 }

/** One test for each of these faults, in one world. */
export async function testFaults(names: readonly string[]): Promise<void> {
  t.setTimeout(170_000)
  const faults = names.map(faultCalled)
  const skip = await lacking()
  if (skip !== undefined) return void t.test('how many requests fail', { skip }, async () => undefined)
  const { signal } = new AbortController()
  const say = (line: string) => t.comment(line)
  const hedgerow = [process.execPath, resolve(import.meta.dirname, '../../src/hedgerow.js')]
  const world = await FailureWorld.start({ hedgerow, say, signal })
  t.teardown(() => world[Symbol.asyncDispose]())
  for (const fault of faults) {
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
