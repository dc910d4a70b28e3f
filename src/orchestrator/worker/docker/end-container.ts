import { setTimeout as sleep } from 'node:timers/promises'
import { isAlive } from '../process-group.ts'
import type { Trace } from '../runtime.ts'
import { Engine, isStatus } from './engine.ts'

/*
 * The end of a container whose agent does not end it (lease-end.ts): by the engine, or, where that does not answer, by a signal to its
 * first process, whose end is that of all others.
 */

/** SIGTERM, and SIGKILL after so long. Larger and what else must fit into cluster/fences.ts no longer does. */
const GRACE_SECONDS = 3
/** For an engine that does not answer. */
const ANSWER_MS = 2_000
const STOP_MS = ANSWER_MS + GRACE_SECONDS * 1_000
/** The agent was about to make it: it may appear within this. */
const APPEARS_MS = 5_000
const LOOK_MS = 250

/** False when it may still run, and must be tried again. */
export async function endContainer(trace: Trace): Promise<boolean> {
  const { container, engine, init, initStartTime } = trace
  try {
    const socket = await Engine.connect(String(engine), ANSWER_MS)
    return await stopped(socket, String(container))
  } catch {
    if (typeof init !== 'number' || typeof initStartTime !== 'number') return false
    killInit(trace)
    await sleep(LOOK_MS)
    return !isAlive(init, initStartTime)
  }
}

/** SIGKILL to its first process, where that is known: the end of all others of the container. */
export function killInit({ init, initStartTime }: Trace): void {
  if (typeof init === 'number' && typeof initStartTime === 'number' && isAlive(init, initStartTime)) kill(init)
}

/** One that runs is stopped, and left for the next agent to read how it ended; one that was only made is removed. */
async function stopped(engine: Engine, container: string): Promise<boolean> {
  const path = `/containers/${container}`
  for (let waited = 0; waited <= APPEARS_MS; waited += LOOK_MS) {
    try {
      const { State } = (await engine.ask({ method: 'GET', path: `${path}/json`, timeoutMs: ANSWER_MS })) as Found
      if (State?.Running === true) {
        const query = { t: GRACE_SECONDS }
        await engine.ask({ method: 'POST', path: `${path}/stop`, query, timeoutMs: STOP_MS })
      } else if (State?.Status === 'created') {
        await engine.ask({ method: 'DELETE', path, query: { force: 1, v: 1 }, timeoutMs: ANSWER_MS })
      }
      return true
    } catch (error) {
      if (!isStatus(error, 404)) throw error
    }
    await sleep(LOOK_MS)
  }
  return true
}

interface Found {
  State?: { Running?: boolean; Status?: string }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // another user's: then only the engine can
  }
}
