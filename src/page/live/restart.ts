import type { InstanceRow } from '../model/rows.ts'
import type { Api } from './api.ts'
import { restart } from './calls.ts'

const POLL_MS = 500
/** Longer than most programs need to become ready; then whoever asked is told which one does not. */
const MOST_MS = 10 * 60_000

/** Restarts instances one after the other: the next when the one before is ready. @throws ApiError, Error */
export async function restartAll(
  api: Api,
  instances: readonly string[],
  progress: (done: number) => void,
): Promise<void> {
  for (const [at, name] of instances.entries()) {
    progress(at)
    const { epoch } = await restart(api, name)
    const endAt = performance.now() + MOST_MS
    while (!(await isRestarted(api, name, epoch))) {
      if (performance.now() > endAt)
        throw new Error(`${name} is not ready after 10 minutes; the others were not restarted.`)
      await new Promise((resolve) => setTimeout(resolve, POLL_MS))
    }
  }
}

async function isRestarted(api: Api, name: string, epoch: number): Promise<boolean> {
  const row = await api.get<InstanceRow>(`/v1/instances/${encodeURIComponent(name)}`)
  if (row.state === 'failed') throw new Error(`${name} has failed${row.detail === undefined ? '' : `: ${row.detail}`}`)
  return (row.epoch ?? 0) >= epoch && row.state === 'running'
}
