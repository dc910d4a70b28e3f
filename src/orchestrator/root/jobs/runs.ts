import type { AskedRun, InstanceRecord, JobRun } from '../root-store.ts'

/** Of each instance. Smaller forgets sooner what `get runs` shows; larger stores more. */
export const MOST_RUNS = 20

type Reported = Pick<InstanceRecord, 'generation' | 'epoch' | 'state' | 'detail' | 'restarts' | 'node'>

/** What is known of an instance’s runs once this has been reported; the oldest first. The same list when nothing is new. */
export function runsAfter(
  runs: readonly JobRun[],
  { generation, epoch = 0, state, detail, restarts, node }: Reported,
  { service, at }: { service: { run?: AskedRun | undefined }; at: number },
): readonly JobRun[] {
  const last = runs.at(-1)
  const isSame = last?.generation === generation && last.epoch === epoch
  const isEarlier =
    last !== undefined && (generation < last.generation || (generation === last.generation && epoch < last.epoch))
  if (isEarlier || node === undefined || state === 'placed' || state === 'requested') return runs
  if (isSame && last.endedAt !== undefined) return runs
  const begun: JobRun = isSame
    ? last
    : {
        number: (last?.number ?? 0) + 1,
        generation,
        epoch,
        ...whoAsked(last, generation, service),
        at,
        state: 'running',
        tries: 1,
      }
  const { detail: _detail, ...known } = begun
  const outcome = state === 'stopped' ? 'succeeded' : state === 'failed' ? 'failed' : 'running'
  const told: JobRun = {
    ...known,
    state: outcome,
    tries: restarts + 1,
    node: node.id,
    ...(detail === undefined ? {} : { detail }),
    ...(outcome === 'running' ? {} : { endedAt: at }),
  }
  const before = isSame ? runs.slice(0, -1) : runs
  return [...before.map((run) => replacedBy(run, at)), told].slice(-MOST_RUNS)
}

function replacedBy(run: JobRun, at: number): JobRun {
  return run.endedAt === undefined ? { ...run, state: 'replaced', endedAt: at } : run
}

function whoAsked(
  last: JobRun | undefined,
  generation: number,
  { run }: { run?: AskedRun | undefined },
): Pick<JobRun, 'by' | 'due'> {
  if (last?.generation === generation) return { by: 'user' } // another epoch: one instance was run again
  const isAsked = run !== undefined && generation >= run.generation && (last?.generation ?? 0) < run.generation
  if (!isAsked) return { by: 'document' }
  return { by: run.by, ...(run.due === undefined ? {} : { due: run.due }) }
}
