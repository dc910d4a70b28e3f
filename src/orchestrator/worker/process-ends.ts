import type { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Runtime, Trace } from './runtime.ts'
import type { Slots } from './slots.ts'

/*
 * What instances have to do with the process of their agent: it may end without a word, be stopped for a while, or have left something
 * when it was killed.
 */

/** Exit code of a process that ends on an exception. */
const FAILED = 1

/** The agent may end without close(), by process.exit(). After an exception the next one takes instances back, as after kill -9. */
export function killOnExit(life: Lifetime, slots: Slots): void {
  const killAll = (exitCode: number) => {
    if (exitCode === FAILED) return
    for (const supervisor of slots.supervisors()) supervisor.kill()
  }
  process.once('exit', killAll)
  life.defer(() => void process.off('exit', killAll))
}

/** After SIGSTOP, during which the stand-in read what the instances printed. */
export function readOnWhenContinued(life: Lifetime, slots: Slots): void {
  const resumed = () => {
    for (const { output } of slots.values()) output.resumed()
  }
  process.on('SIGCONT', resumed)
  life.defer(() => void process.off('SIGCONT', resumed))
}

/** Ends what no record names: an agent was killed before it could write one, or the record was lost. */
export async function tidy(runtimes: readonly Runtime[], traces: readonly Trace[], log: Log): Promise<void> {
  try {
    await Promise.all(runtimes.map((runtime) => runtime.tidy?.(traces) ?? Promise.resolve()))
  } catch (error) {
    log.warn('what an earlier agent left running could not be ended', { error })
  }
}
