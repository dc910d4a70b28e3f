import { setTimeout as sleep } from 'node:timers/promises'
import { type Fault, FAULTS, type Sizes } from './faults.ts'
import { disturbance, type FailureRow, noteOf, rowOf } from './judge.ts'
import { monotonicMs, type Pace } from './load.ts'
import type { Band } from './timeline.ts'
import { type Deployment, type FailureWorld } from './world.ts'

export interface StrikeOptions extends Sizes {
  pace: Pace
  /** Load before the fault, and after it is over. */
  marginMs: number
  say: (line: string) => void
  signal: AbortSignal
}

export interface RunOptions extends StrikeOptions {
  only: RegExp
  /** How often a fault is repeated when something else disturbed the client. */
  repeats: number
  told: (row: FailureRow) => void
}

/** One fault after the other in one world; each begins with everything whole. */
export async function strikeAll(world: FailureWorld, options: RunOptions): Promise<Band[]> {
  const bands: Band[] = []
  for (const fault of chosen(options.only)) {
    options.signal.throwIfAborted()
    let band = await strike(world, fault, options)
    for (let again = 0; again < options.repeats && disturbance(band) !== undefined; again += 1) {
      options.say(`${fault.fault}, once more: ${noteOf(band)}`)
      band = await strike(world, fault, options)
    }
    bands.push(band)
    options.told(band.row)
    options.say(`${fault.fault}: ${noteOf(band)}`)
  }
  return bands
}

export function chosen(only: RegExp): readonly Fault[] {
  return FAULTS.filter(({ fault }) => only.test(fault))
}

/** Long enough that tables are up to date and sessions settled. */
const SETTLE_MS = 1_000

export async function strike(world: FailureWorld, fault: Fault, options: StrikeOptions): Promise<Band> {
  const { say, marginMs, signal } = options
  say(`${fault.fault} …`)
  const deployment: Deployment = { replicas: 2, version: world.nextVersion(), ...fault.of }
  await world.apply(deployment)
  await world.serves(deployment.version, deployment.replicas)
  await fault.prepare?.(world, options)
  const about = { ...options, ...(await world.victim()), deployment }
  await sleep(SETTLE_MS, undefined, { signal })
  const stop = await world.load(options.pace)
  await sleep(marginMs, undefined, { signal })
  const at = monotonicMs()
  const putBack = await fault.strike(world, about)
  await sleep(marginMs, undefined, { signal })
  const struck = { fault: fault.fault, goal: fault.goal, at, samples: await stop() }
  await putBack?.()
  return { ...struck, row: rowOf(struck) }
}
